"""Lightning goes on from a Checkpointer, and keeps its own checkpoints as safetensors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, FormatError, UnsupportedError
from tensorkeep.integrations import lightning as integration

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def lightning() -> Any:
    found = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return found


def model_of(lightning: Any, torch: Any, stop: int = -1) -> Any:
    base: Any = lightning.LightningModule

    class Model(base):  # type: ignore[misc]
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            nn = torch.nn
            layers = [nn.Linear(4, width), nn.Dropout(0.3), nn.BatchNorm1d(width)]
            self.net = nn.Sequential(*layers, nn.Linear(width, 1))

        def training_step(self, batch: Any, index: int) -> Any:
            if self.global_step == stop:
                raise InterruptedError
            loss = (self.net(batch) - 1).square().mean()
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val", (self.net(batch) - 1).square().mean())

        def configure_optimizers(self) -> Any:
            adam = torch.optim.AdamW(self.parameters(), lr=0.01)
            return [adam], [torch.optim.lr_scheduler.ExponentialLR(adam, 0.8)]

    lightning.seed_everything(3, verbose=False)
    return Model()


def trainer_of(lightning: Any, folder: Path, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        max_epochs=3, accelerator="cpu", devices=1, default_root_dir=folder, **quiet, **options
    )


def loaders_of(torch: Any, kind: Any = None) -> dict[str, Any]:
    class Data:
        rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))

        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            return self.rows[i] + 0.1 * torch.randn(4)

    usual = torch.utils.data.DataLoader
    return {
        "train_dataloaders": (kind or usual)(Data(), batch_size=4, shuffle=True),
        "val_dataloaders": usual(Data(), batch_size=4),
    }


def weights(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(torch: Any, left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


FENCED = {"background": True, "fenced": True}


@pytest.mark.parametrize("options", [{}, FENCED], ids=["foreground", "fenced"])
@pytest.mark.parametrize(("stateful", "stop"), [(False, 5), (False, 8), (True, 3), (True, 12)])
def test_it_ends_as_if_never_stopped(
    lightning: Any, torch: Any, tmp_path: Path, stateful: bool, stop: int, options: Any
) -> None:
    kind = None
    if stateful:  # with it, Lightning goes on in the middle of an epoch
        torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="no torchdata")
        kind, options = torchdata.StatefulDataLoader, {**options, "every_steps": 1}
    whole = model_of(lightning, torch)
    trainer = trainer_of(lightning, tmp_path, enable_checkpointing=False)
    trainer.fit(whole, **loaders_of(torch, kind))

    with tk.Checkpointer(tmp_path / "kept", **options) as checkpointer:
        first = model_of(lightning, torch, stop)
        trainer = trainer_of(lightning, tmp_path)
        with pytest.raises(InterruptedError):
            integration.resume(trainer, first, checkpointer, **loaders_of(torch, kind))
    with tk.Checkpointer(tmp_path / "kept", **options) as checkpointer:
        newest = checkpointer.checkpoints()[-1]
        assert newest.step == (stop if stateful else stop // 5 * 5)
        if not stateful:
            assert newest.metrics.keys() == {"loss", "val"}
        second = model_of(lightning, torch)
        callbacks = [integration.callback(checkpointer)]
        trainer = trainer_of(lightning, tmp_path, callbacks=callbacks)
        integration.resume(trainer, second, checkpointer, **loaders_of(torch, kind))
    assert trainer.global_step == 15
    assert trainer.current_epoch == 3
    assert equal(torch, weights(second), weights(whole))


def test_an_exception_is_saved_where_asked(lightning: Any, torch: Any, tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path / "kept") as checkpointer:
        callback = integration.callback(checkpointer, every_epochs=0, on_exception=True)
        trainer = trainer_of(lightning, tmp_path, callbacks=[callback])
        with pytest.raises(InterruptedError):
            trainer.fit(model_of(lightning, torch, 3), **loaders_of(torch))
        rows = [(row.step, row.reason) for row in checkpointer.checkpoints()]
    assert rows == [(3, "exception")]


def test_lightnings_own_checkpoints_become_safetensors(
    lightning: Any, torch: Any, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")

    def fit(model: Any, path: Path | None) -> Any:
        best = lightning.callbacks.ModelCheckpoint(
            dirpath=tmp_path / "own", monitor="val", save_top_k=1, save_last=True
        )
        options = {"callbacks": [best], "plugins": [integration.checkpoint_io(durable=False)]}
        trainer = trainer_of(lightning, tmp_path, **options)
        trainer.fit(model, ckpt_path=path, **loaders_of(torch))
        return trainer

    first = model_of(lightning, torch)
    fit(first, None)
    last = tmp_path / "own" / "last.ckpt"
    assert len(list(last.parent.iterdir())) == 2  # the others were removed
    assert safetensors.load_file(last)["state_dict.net.0.weight"].shape == (8, 4)
    assert tk.load(last)["hyper_parameters"] == {"width": 8}

    second = model_of(lightning, torch)
    trainer = fit(second, last)
    assert trainer.global_step == 15
    assert equal(torch, weights(second), weights(first))

    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    with pytest.raises(CorruptError):
        fit(model_of(lightning, torch), last)
    torch.save({"state_dict": {}}, last)
    with pytest.raises(FormatError):
        fit(model_of(lightning, torch), last)


def test_what_cannot_be_kept_is_refused_with_its_place(lightning: Any, tmp_path: Path) -> None:
    plugin = integration.checkpoint_io()
    with pytest.raises(UnsupportedError, match=r"callbacks\.mine"):
        plugin.save_checkpoint({"callbacks": {"mine": object()}}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
    plugin.save_checkpoint({"epoch": 3}, tmp_path / "a.ckpt")
    assert plugin.load_checkpoint(tmp_path / "a.ckpt", map_location="cpu") == {"epoch": 3}
    with pytest.raises(UnsupportedError, match="map_location"):
        plugin.load_checkpoint(tmp_path / "a.ckpt", map_location=lambda storage, _: storage)
    plugin.remove_checkpoint(tmp_path / "a.ckpt")
    plugin.remove_checkpoint(tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []

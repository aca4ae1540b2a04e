// The dialog that tells the keys.

import { useEffect, useRef } from "preact/hooks";

const KEYS: [string[], string][] = [
  [["1", "2", "3", "4"], "the sights, in the order of their buttons"],
  [["/"], "search"],
  [["[", "]"], "the step before and after, of a run"],
  [["↑", "↓"], "move in a list; the Home and End keys go to its ends"],
  [["Enter"], "open what is marked"],
  [["Esc"], "leave a field, close what is open"],
  [["?"], "these keys"],
];

export function Help({ open, close, version }: { open: boolean; close: () => void; version: string }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (open && !dialog.current?.open) dialog.current?.showModal();
    if (!open && dialog.current?.open) dialog.current.close();
  }, [open]);
  return (
    <dialog class="help" ref={dialog} onClose={close} aria-labelledby="help-title">
      <div class="head">
        <h2 id="help-title">Keys</h2>
        <button onClick={close}>Close</button>
      </div>
      <dl>
        {KEYS.map(([keys, does]) => (
          <>
            <dt>
              {keys.map((key) => (
                <>
                  <kbd>{key}</kbd>{" "}
                </>
              ))}
            </dt>
            <dd>{does}</dd>
          </>
        ))}
      </dl>
      <p class="soft">No file that is open is changed; verifying a checkpoint notes beside it that it was read. tensorkeep {version}</p>
    </dialog>
  );
}

"""Where databases are, and of which type."""

from __future__ import annotations

import os

from tensorkeep.caffe2.operator import Operator
from tensorkeep.database import Database, Mode
from tensorkeep.errors import ArgumentError, UnknownFormatError
from tensorkeep.stores import DATABASES, open_database


def resolve(operator: Operator, name: str) -> str:
    """Give the path of a database: below the root folder unless `absolute_path` is set.

    As in Caffe2 the root folder is put in front of any name, so "/x" is not the root of the disk.

    >>> from tensorkeep.caffe2 import Operator, Workspace, create_operator
    >>> load = create_operator("Load", db="a.minidb")
    >>> resolve(Operator(load, Workspace("runs")), "a.minidb")
    'runs/a.minidb'
    """
    if operator.arguments.integer("absolute_path"):
        return name
    return f"{operator.workspace.root_folder}/{name}"


def check_db_type(operator: Operator, db_type: str) -> None:
    """Refuse a type of database that does not exist.

    Raises:
        ArgumentError: it is empty or unknown.
    """
    if db_type not in DATABASES:
        problem = f"no database type is called {db_type!r}" if db_type else "needs a db_type"
        raise ArgumentError(
            problem, where=operator.where, cure=f"Use one of {', '.join(DATABASES)}."
        )


def open_for(operator: Operator, db_type: str, path: str, mode: Mode) -> Database:
    """Open a database for an operator; where it is not strict, as Caffe2 would.

    Raises:
        ArgumentError: the type is empty or unknown.
        MissingError: there is nothing to read, or no folder to write in.
        StoreError: it cannot be opened.
    """
    check_db_type(operator, db_type)
    lax = {"strict": operator.strict, "repeats": not operator.strict}
    taken = DATABASES[db_type].option_names
    return open_database(db_type, path, mode, **{k: v for k, v in lax.items() if k in taken})


def recognise(path: str) -> str:
    """Tell the type of the database at a path by what is there; minidb where nothing is.

    Raises:
        UnknownFormatError: no type of database recognises it.
    """
    for kind in DATABASES.values():
        if kind.recognises(path):
            return kind.kind
    if not os.path.exists(path):
        return "minidb"  # opening it says what is missing
    raise UnknownFormatError(
        "is no database that is known",
        where=path,
        cure=f"Give its db_type: one of {', '.join(DATABASES)}. What is no database, such as an "
        "init_net.pb, is read with tensorkeep.load.",
    )

"""An embedded registry whose folder was moved, or restored from a backup elsewhere: MLflow notes where files lie."""

import sqlite3
from contextlib import closing
from pathlib import Path

from wafer.errors import RegistryError

EXPERIMENTS = "experiments"
PLACES = {
    EXPERIMENTS: ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""The columns of MLflow's database that name a place of artifacts."""
SECONDS = 30.0  # that another process may take to do the same


def follow_move(database: Path, root: str, name: str) -> None:
    """Let MLflow's notes of the experiment's files begin with `root`, where they began with another folder.

    Parameters:
        database: SQLite file of the registry.
        root: folder of its artifacts now.
        name: of the experiment.

    Raises:
        RegistryError: the database cannot be read or changed.
    """
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, timeout=SECONDS)) as connection, connection:
            wanted = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
            if connection.execute(wanted, (EXPERIMENTS,)).fetchone() is None:
                return  # it is being made
            query = f"SELECT artifact_location FROM {EXPERIMENTS} WHERE name = ?"
            found = connection.execute(query, (name,)).fetchone()
            if found is None or found[0] == root or "://" in found[0]:
                return
            before = found[0]
            for table, columns in PLACES.items():
                for column in columns:
                    # the folder itself, or what lies below it; the other names are constants
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (root, len(before) + 1, before, len(before) + 1, f"{before}/"),
                    )
    except sqlite3.Error as error:
        raise RegistryError(f"the model registry in {database} could not be opened: {error}") from error

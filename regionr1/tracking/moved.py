"""A project folder that was moved or copied: MLflow keeps absolute paths, ours follow the database.

MLflow has no command for it, so its tables are changed here: those columns that name a file below
the folder in which an experiment's artifacts were.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow(database: Path) -> None:
    """Has experiments look for artifacts beside the database, where they lie there.

    Args:
        database: MLflow's sqlite file.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in known:
            return
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for name, location in rows:
            here = database.parent / name
            old, new = str(location or ""), here.as_uri()
            ours = old.startswith("file://") and old.endswith("/" + new.rsplit("/", 1)[-1])
            if old == new or not ours or not here.is_dir():
                continue
            for table, column in COLUMNS:
                if table in known:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, old + "/"),
                    )
            print(f"the project was moved: artifacts of {name} are now looked for in {here}")

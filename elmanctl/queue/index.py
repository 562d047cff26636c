"""`runs/index.sqlite`: a cache of what each trial's records say, so that a long list is quick. The records are the truth.

* An entry counts while size and time of the trial's files are those it was made from; everything else is read anew.
* Absent, damaged, locked, read-only or made by a newer elmanctl, it is done without, and the reason is said.
* On a network file system SQLite's WAL corrupts; there it works without WAL, and that is said.
"""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

from elmanctl.names import INDEX

VERSION = 1
BUSY_SECONDS = 2.0
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "afs",
    "glusterfs",
    "fuse.sshfs",
    "fuse.gluster",
    "ocfs",
)
READ = "the records are read instead."
MOUNTS = Path("/proc/self/mountinfo")


def network(path: Path) -> str:
    """Return the type of the network file system that a folder lies on, an empty text for a local one."""
    best, kind = "", ""
    place = os.path.realpath(path)
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text().splitlines():
            before, _, after = line.partition(" - ")
            mount = before.split()[4].replace("\\040", " ")
            inside = place == mount or place.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, after.split()[0]
    return kind if kind.startswith(NETWORK) else ""


class Index:
    """The index of a folder of runs; a context manager. `notes` says what is wrong with it.

    Args:
        folder: where the runs lie; rebuild: begin with an empty one, whatever there is.
    """

    def __init__(self, folder: Path, rebuild: bool = False):
        self.path, self.notes = folder / INDEX, []
        self._known: dict[str, tuple[str, str]] = {}
        self._new: dict[str, tuple[str, str]] = {}
        self._base = None
        self._rebuild = rebuild

    def __enter__(self) -> "Index":
        try:
            if self._rebuild:
                for end in ("", "-wal", "-shm"):
                    self.path.with_name(f"{INDEX}{end}").unlink(missing_ok=True)
            self._open()
        except sqlite3.Error as error:
            self._base = None
            self._say(f"cannot be used ({error})")
        except OSError as error:
            self.notes.append(f"{error.filename} cannot be removed ({error.strerror}); {READ} Move it away yourself.")
        return self

    def _open(self) -> None:
        new = not self.path.exists()
        if new and not os.access(self.path.parent, os.W_OK):
            return
        base = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        version = base.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            base.close()
            self._say(f"was made by a newer elmanctl (version {version}, this one knows {VERSION})")
            return
        if version < VERSION:
            if kind := network(self.path.parent):
                self.notes.append(
                    f"{self.path} works without WAL: {kind} is a network file system, where WAL corrupts."
                )
            else:
                base.execute("PRAGMA journal_mode=WAL")
            base.execute("BEGIN IMMEDIATE")
            base.execute("DROP TABLE IF EXISTS trials")
            base.execute("CREATE TABLE trials (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, facts TEXT NOT NULL)")
            base.execute(f"PRAGMA user_version={VERSION}")
            base.execute("COMMIT")
        base.execute("PRAGMA synchronous=OFF")  # what is lost is made again
        self._base = base
        self._known = {path: (stamp, facts) for path, stamp, facts in base.execute("SELECT * FROM trials")}

    def __exit__(self, *_) -> None:
        if self._base is None:
            return
        gone = self._known.keys() - self._new.keys()
        changed = [(path, *entry) for path, entry in self._new.items() if self._known.get(path) != entry]
        try:
            if gone or changed:
                self._base.execute("BEGIN IMMEDIATE")
                self._base.executemany("DELETE FROM trials WHERE path=?", [(path,) for path in gone])
                self._base.executemany("INSERT OR REPLACE INTO trials VALUES (?, ?, ?)", changed)
                self._base.execute("COMMIT")
        except sqlite3.Error as error:  # full, read-only, or somebody else writes: the list is right all the same
            self._say(f"could not be written ({error})")
        finally:
            self._base.close()

    def _say(self, what: str) -> None:
        mend = "Move that folder away." if self.path.is_dir() else "`elmanctl runs reindex` makes it anew."
        self.notes.append(f"{self.path} {what}; {READ} {mend}")

    def facts(self, path: str, stamp: str, make) -> dict:
        """Return what is known of a trial: from the index where its stamp is the same, else made and remembered."""
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            self._new[path] = known
            return json.loads(known[1])
        facts = make()
        self._new[path] = (stamp, json.dumps(facts))
        return facts

//! Which file a connection has open. A SQLite database is more than its main file: what was
//! committed last is in its write-ahead log, and the index of that log has the locks.

use std::path::{Path, PathBuf};

/// Tells one file from another, whatever their names.
pub(super) type Inode = (u64, u64);

/// The files of an open database, and what they were when it was opened.
pub(super) struct FileIdentity {
    database: Part,
    log: Part,
    index: Part,
}

struct Part {
    path: PathBuf,
    inode: Option<Inode>,
}

/// What has happened to the files of an open database.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The file was deleted or replaced.
    Database,
    /// The write-ahead log or its index was deleted or replaced: whoever opens the database now
    /// sees none of what is in ours.
    Log,
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            Part::of(name.into())
        };
        Self {
            database: Part::of(path.to_owned()),
            log: beside("-wal"),
            index: beside("-shm"),
        }
    }

    /// What tells the file from others; None where the system has no such thing.
    pub(super) fn inode(&self) -> Option<Inode> {
        self.database.inode.filter(|_| cfg!(unix))
    }

    /// Deletes the log and its index, if they are still those of a file in whose place another file has
    /// been put. SQLite would read them as parts of the other file, and so mix the two.
    pub(super) fn remove_what_is_left_of_a_replaced_file(&self) {
        let now = inode(&self.database.path);
        if cfg!(unix) && now.is_some() && now != self.database.inode {
            for part in [&self.log, &self.index] {
                if part.inode.is_some() && inode(&part.path) == part.inode {
                    let _ = std::fs::remove_file(&part.path); // opening the file shows what is wrong
                }
            }
        }
    }

    /// Looks at the files again.
    pub(super) fn change(&mut self) -> Change {
        if inode(&self.database.path) != self.database.inode {
            Change::Database
        } else if self.log.has_gone() || self.index.has_gone() {
            Change::Log
        } else {
            Change::Nothing
        }
    }
}

impl Part {
    fn of(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }

    /// A part that was not there before is no loss: the journal mode may be changed at any time.
    fn has_gone(&mut self) -> bool {
        let now = inode(&self.path);
        if self.inode.is_none() {
            self.inode = now;
        }
        self.inode != now
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<Inode> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

#[cfg(not(unix))]
fn inode(path: &Path) -> Option<Inode> {
    path.exists().then_some((0, 0))
}

/// Why a process that opens the file under another name would not be excluded: each name has a
/// write-ahead log of its own. None if there seems to be one name.
pub(super) fn other_names(path: &Path) -> Option<String> {
    if links(path) > 1 {
        return Some(
            "the file has another name (a hard link), and processes that use different names do not exclude \
             each other: use one name, or a symbolic link"
                .into(),
        );
    }
    is_mounted_alone(path).then(|| {
        "the file is mounted alone, without the files beside it, and a process outside of this mount is not \
         excluded: mount its folder"
            .into()
    })
}

#[cfg(unix)]
fn links(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(1, |data| data.nlink())
}

#[cfg(not(unix))]
fn links(_: &Path) -> u64 {
    1
}

/// Whether the file itself, not one of its folders, is a mount point, as containers make it.
fn is_mounted_alone(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    lists_mount_point(&mounts, path)
}

fn lists_mount_point(mounts: &str, path: &Path) -> bool {
    let escaped: String = path
        .to_string_lossy()
        .chars()
        .map(|character| match character {
            ' ' => "\\040".into(),
            '\t' => "\\011".into(),
            '\n' => "\\012".into(),
            '\\' => "\\134".into(),
            other => other.to_string(),
        })
        .collect();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(escaped.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_database_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.db");
        let part = |suffix: &str| folder.path().join(format!("locks.db{suffix}"));
        std::fs::write(&path, "").unwrap();
        let mut identity = FileIdentity::of(&path);
        assert_eq!(identity.change(), Change::Nothing);
        for suffix in ["-wal", "-shm"] {
            std::fs::write(part(suffix), "").unwrap();
            assert_eq!(
                identity.change(),
                Change::Nothing,
                "a log may be made at any time"
            );
            std::fs::rename(part(suffix), part("-old")).unwrap();
            assert_eq!(identity.change(), Change::Log);
            std::fs::write(part(suffix), "").unwrap();
            assert_eq!(identity.change(), Change::Log);
            identity = FileIdentity::of(&path);
        }
        std::fs::rename(&path, part("-old")).unwrap();
        assert_eq!(identity.change(), Change::Database);
        std::fs::write(&path, "").unwrap();
        assert_eq!(identity.change(), Change::Database);
    }

    #[cfg(unix)]
    #[test]
    fn only_what_is_left_of_a_replaced_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.db");
        let part = |suffix: &str| folder.path().join(format!("locks.db{suffix}"));
        for suffix in ["", "-wal", "-shm", "-new"] {
            std::fs::write(part(suffix), "").unwrap();
        }
        let identity = FileIdentity::of(&path);
        identity.remove_what_is_left_of_a_replaced_file();
        assert!(part("-wal").exists() && part("-shm").exists());
        std::fs::rename(part("-new"), &path).unwrap();
        std::fs::write(part("-new"), "").unwrap();
        std::fs::rename(part("-new"), part("-wal")).unwrap();
        identity.remove_what_is_left_of_a_replaced_file();
        assert!(part("-wal").exists(), "it belongs to the new file");
        assert!(!part("-shm").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_second_name_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.db");
        std::fs::write(&path, "").unwrap();
        assert_eq!(other_names(&path), None);
        std::os::unix::fs::symlink(&path, folder.path().join("symbolic")).unwrap();
        assert_eq!(other_names(&path), None);
        std::fs::hard_link(&path, folder.path().join("hard")).unwrap();
        assert!(other_names(&path).unwrap().contains("hard link"));
    }

    #[test]
    fn a_mounted_file_is_noticed() {
        let mounts = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 22 8:1 /home/me/my\\040locks.db /data/my\\040locks.db rw,relatime - ext4 /dev/sda1 rw
32 22 8:1 /home/me /mounted rw,relatime - ext4 /dev/sda1 rw";
        assert!(lists_mount_point(mounts, Path::new("/data/my locks.db")));
        assert!(!lists_mount_point(mounts, Path::new("/mounted/locks.db")));
        assert!(!lists_mount_point(mounts, Path::new("/home/me/my locks.db")));
    }
}

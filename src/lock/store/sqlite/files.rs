//! The SQLite files that this process has open, so that they can be closed at its exit.
//!
//! A connection that is not closed leaves a write-ahead log behind, and in it what the application
//! committed. Stores end on threads of their own, which nobody waits for; here they can be waited
//! for. The list also shows when one file is opened under two names.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use super::identity::Inode;
use super::neighbours;
use super::worker::{End, Message};
use crate::mutex::lock;

static FILES: Mutex<Files> = Mutex::new(Files {
    process: 0,
    next: 0,
    open: Vec::new(),
});

struct Files {
    process: u32,
    next: u64,
    open: Vec<Open>,
}

struct Open {
    number: u64,
    path: PathBuf,
    /// The file that was found under the path, once it has been opened.
    file: Option<Inode>,
    inbox: mpsc::Sender<Message>,
    is_closing: bool,
}

impl Files {
    fn of_this_process() -> MutexGuard<'static, Self> {
        let mut files = lock(&FILES);
        let process = std::process::id();
        if files.process != process {
            files.process = process;
            // In a forked child the other ends of these channels belong to threads that do not
            // exist, and may be locked for ever: they are leaked.
            std::mem::forget(std::mem::take(&mut files.open));
        }
        files
    }
}

/// A worker's place in the list. It leaves the list when dropped, which must be after its
/// connection was closed.
pub(super) struct Entry {
    number: u64,
}

impl Entry {
    pub(super) fn new(path: &Path, inbox: mpsc::Sender<Message>) -> Self {
        let _no_fork_meanwhile = neighbours::working();
        let mut files = Files::of_this_process();
        let number = files.next;
        files.next += 1;
        files.open.push(Open {
            number,
            path: path.to_owned(),
            file: None,
            inbox,
            is_closing: false,
        });
        Self { number }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _no_fork_meanwhile = neighbours::working();
        Files::of_this_process()
            .open
            .retain(|open| open.number != self.number);
    }
}

/// Notes that a worker has been told to close its file.
pub(super) fn closing(number: u64) {
    let _no_fork_meanwhile = neighbours::working();
    let mut files = Files::of_this_process();
    if let Some(open) = files.open.iter_mut().find(|open| open.number == number) {
        open.is_closing = true;
    }
}

/// Has a file closed until the next request, since nobody uses it any more.
pub(in crate::lock) fn let_go_of_file(path: &Path) {
    let _no_fork_meanwhile = neighbours::working();
    let mut files = Files::of_this_process();
    for open in files.open.iter_mut().filter(|open| open.path == path) {
        open.is_closing = true;
        let (done, _) = mpsc::channel();
        drop(open.inbox.send(Message::End(End::LetGo(done))));
    }
}

/// Notes which file a worker has found, and returns another name under which this process has
/// the same file open. Called by workers, while the process can't fork.
pub(super) fn found(number: u64, file: Option<Inode>) -> Option<PathBuf> {
    let mut files = Files::of_this_process();
    let path = files.open.iter_mut().find(|open| open.number == number)?;
    path.file = file;
    let path = path.path.clone();
    let other = files
        .open
        .iter()
        .find(|open| open.path != path && open.file == file && file.is_some() && !open.is_closing)?;
    Some(other.path.clone())
}

/// Closes the files of this process, with a checkpoint, and waits for that, for `patience` at most.
/// A store that is used again opens its file again. This function blocks.
pub fn close_files(patience: Duration) {
    close(patience, |_| true);
}

/// Waits, for `patience` at most, until the files are closed whose last manager has gone.
pub async fn unused_files_are_closed(patience: Duration) {
    let any = {
        let _no_fork_meanwhile = neighbours::working();
        Files::of_this_process().open.iter().any(|open| open.is_closing)
    };
    if any {
        let closing = tokio::task::spawn_blocking(move || close(patience, |open| open.is_closing));
        let _ = closing.await; // it fails only while the runtime ends
    }
}

fn close(patience: Duration, wanted: impl Fn(&Open) -> bool) {
    let deadline = Instant::now() + patience;
    let closed: Vec<mpsc::Receiver<()>> = {
        let _no_fork_meanwhile = neighbours::working();
        let files = Files::of_this_process();
        let wanted = files.open.iter().filter(|open| wanted(open));
        wanted
            .map(|open| {
                let (done, closed) = mpsc::channel();
                // A worker that has ended drops the sender, which is an answer, too.
                drop(open.inbox.send(Message::End(End::LetGo(done))));
                closed
            })
            .collect()
    };
    for closed in closed {
        let _ = closed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

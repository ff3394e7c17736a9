//! Notices that another process has written the database, without asking the database all the time.
//!
//! The kernel tells of writes to the file and to its write-ahead log (inotify). A write is seen a moment before its commit
//! can be read, so that each is followed by a few looks at SQLite's `data_version`, soon and then less soon. Where the kernel
//! tells nothing, the look is taken on a short timer instead. Either runs only while someone waits for a lock.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::worker::Message;
use crate::lock::store::Listener;
use crate::notices::Trouble;

/// When to look after a write, each after the one before, until a lock is found free: the commit follows within microseconds, or,
/// where the writer syncs the disk, within milliseconds. Another commit that is found first is not the one that was told of.
const LOOKS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(12),
];
/// How often to look where the kernel tells nothing.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_millis(3);

/// The running watch; it ends with this value.
pub(super) struct ChangeWatch {
    waiting: watch::Sender<usize>,
}

impl ChangeWatch {
    /// Starts watching, at rest until someone waits.
    pub(super) fn start(
        path: PathBuf,
        inbox: mpsc::Sender<Message>,
        listener: Arc<dyn Listener>,
        runtime: &Handle,
    ) -> Self {
        let (waiting, watched) = watch::channel(0);
        runtime.spawn(run(path, inbox, listener, watched));
        Self { waiting }
    }

    /// One more key is waited for, or one less.
    pub(super) fn count(&self, more: bool) {
        self.waiting
            .send_modify(|count| *count = if more { *count + 1 } else { count.saturating_sub(1) });
    }
}

async fn run(
    path: PathBuf,
    inbox: mpsc::Sender<Message>,
    listener: Arc<dyn Listener>,
    mut waiting: watch::Receiver<usize>,
) {
    let mut kernel = None;
    while waiting.wait_for(|count| *count > 0).await.is_ok() {
        // Each time anew: the log may have been made, or the file replaced, in the meantime, and a limit of the kernel may not
        // be reached any more.
        let watched = events::watch(&mut kernel, &path);
        match &watched {
            Ok(_) => listener.works(Trouble::WatchingChanges),
            // On a system that has no such events nothing has failed.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => listener.failed(Trouble::WatchingChanges, &error.to_string()),
        }
        let still_waiting = async { waiting.wait_for(|count| *count == 0).await.is_ok() };
        tokio::select! {
            nobody_waits = still_waiting => if !nobody_waits { return },
            () = look_out(watched.ok(), &inbox) => {}
        }
    }
}

async fn look_out(events: Option<&mut events::Events>, inbox: &mpsc::Sender<Message>) {
    // What was written before the watch was set is found by a look.
    look(inbox).await;
    let Some(events) = events else {
        loop {
            tokio::time::sleep(LOOK_WITHOUT_EVENTS).await;
            look(inbox).await;
        }
    };
    loop {
        if !events.next().await {
            tokio::time::sleep(LOOK_WITHOUT_EVENTS).await;
        }
        for pause in LOOKS {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if look(inbox).await {
                break;
            }
        }
    }
}

async fn look(inbox: &mpsc::Sender<Message>) -> bool {
    let (answer, found) = oneshot::channel();
    inbox.send(Message::Probe(answer)).is_ok() && found.await.unwrap_or(false)
}

#[cfg(target_os = "linux")]
mod events {
    //! Writes to files, told by the kernel.

    use std::ffi::OsString;
    use std::io::{self, ErrorKind};
    use std::path::Path;

    use rustix::fd::{AsFd as _, OwnedFd};
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use tokio::net::unix::pipe::Receiver;

    /// The events of the database's file, made in `place` if there are none.
    pub(super) fn watch<'place>(
        place: &'place mut Option<Events>,
        database: &Path,
    ) -> io::Result<&'place mut Events> {
        let events = match place {
            Some(events) => events,
            None => place.insert(Events::new()?),
        };
        events.watch(database)?;
        Ok(events)
    }

    pub(super) struct Events {
        /// To set watches by.
        descriptor: OwnedFd,
        /// The same, to read from. It is no pipe, but is read like one: bytes come when there is something to tell.
        source: Receiver,
    }

    impl Events {
        fn new() -> io::Result<Self> {
            let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let source = Receiver::from_owned_fd_unchecked(descriptor.try_clone()?)?;
            Ok(Self { descriptor, source })
        }

        fn watch(&self, database: &Path) -> io::Result<()> {
            let mut log = OsString::from(database);
            log.push("-wal");
            for path in [database, Path::new(&log)] {
                match inotify::add_watch(self.descriptor.as_fd(), path, WatchFlags::MODIFY) {
                    Ok(_) => {}
                    // A log that does not exist is no fault: the file itself is written then.
                    Err(error) if error.kind() == ErrorKind::NotFound && path != database => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }

        /// Waits for a write, and takes note of all there have been. False if the kernel will tell nothing more.
        pub(super) async fn next(&mut self) -> bool {
            let mut events = [0_u8; 4096];
            if self.source.readable().await.is_err() {
                return false;
            }
            loop {
                match self.source.try_read(&mut events) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod events {
    //! Elsewhere nobody tells.

    use std::io::{Error, ErrorKind, Result};
    use std::path::Path;

    pub(super) struct Events;

    pub(super) fn watch<'place>(_: &'place mut Option<Events>, _: &Path) -> Result<&'place mut Events> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    impl Events {
        pub(super) async fn next(&mut self) -> bool {
            std::future::pending().await
        }
    }
}

//! What the core reports unasked: what it gave up, once, and that it works again.
//!
//! The core has no logger. It puts a [`Notice`] into the process's queue, and whoever runs the core takes it out and logs it
//! when it is convenient. The words of all notices stand here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::mutex::lock;
use crate::printable::printable;

/// More are dropped: a process in which nobody takes notices out must not fill its memory with them.
const MOST_WAITING: usize = 256;
/// How many different causes of one trouble at one database are reported, until it works again: a cause may name the lock, and so
/// read differently each time.
const MOST_CAUSES: usize = 3;

/// What does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trouble {
    /// The connection that listens for releases can't be made, or not be used.
    Listening,
    /// A row that nobody owns any more could not be deleted.
    Deleting,
    /// A connection did not answer and was replaced.
    Answering,
    /// The kernel does not report changes of a database's file.
    WatchingChanges,
    /// Somebody removed a part of a database's file while it was in use.
    LogRemoved,
    /// A database's file has names that do not exclude each other.
    OtherNames,
}

#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub trouble: Trouble,
    /// The database, without secrets.
    place: Arc<str>,
    /// The lock that is concerned, if it is one.
    key: Option<Arc<str>>,
    /// Why it does not work; `None` when it works again.
    cause: Option<String>,
}

impl Notice {
    /// Whether it says that something works again.
    pub(crate) fn is_good(&self) -> bool {
        self.cause.is_none()
    }

    fn text(&self) -> String {
        let key = self.key.as_deref().unwrap_or("?");
        let (failed, works) = match self.trouble {
            Trouble::Listening => (
                "cannot listen for released locks, so that a waiter finds a released lock up to 0.3 s later".to_owned(),
                "listens for released locks again",
            ),
            Trouble::Deleting => (
                format!("could not delete the lock {key}, which nobody holds any more; it stays until it expires"),
                "deletes locks again",
            ),
            Trouble::Answering => (
                "replaced a connection that did not answer".to_owned(),
                "answers again",
            ),
            Trouble::WatchingChanges => (
                "cannot watch the file for changes, and looks at it every 3 ms while somebody waits for a lock".to_owned(),
                "watches the file for changes again",
            ),
            // Their causes are sentences that say all.
            Trouble::LogRemoved => (String::new(), "opened anew"),
            Trouble::OtherNames => (String::new(), "the file has one name again"),
        };
        match &self.cause {
            Some(cause) if failed.is_empty() => format!("{}: {cause}", self.place),
            Some(cause) => format!("{}: {failed}: {cause}", self.place),
            None => format!("{}: {works}", self.place),
        }
    }
}

/// One line, without control characters: keys and texts of servers are other people's.
impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&printable(&self.text()))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notices {
    state: Mutex<State>,
    /// Whether any wait: looked at far more often than there are any.
    waiting: AtomicBool,
    /// Whether anything was reported that may work again.
    reported: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Notice>,
    reported: HashMap<(Arc<str>, Trouble), HashSet<String>>,
}

impl Notices {
    /// Reports a failure, unless its cause was reported already and nothing has worked since.
    pub(crate) fn failed(&self, place: &Arc<str>, trouble: Trouble, key: Option<Arc<str>>, cause: &str) {
        let mut state = lock(&self.state);
        let causes = state.reported.entry((Arc::clone(place), trouble)).or_default();
        if causes.len() >= MOST_CAUSES || !causes.insert(cause.to_owned()) {
            return;
        }
        self.reported.store(true, Ordering::Release);
        self.put(
            &mut state,
            Notice {
                trouble,
                place: Arc::clone(place),
                key,
                cause: Some(cause.to_owned()),
            },
        );
    }

    /// Reports that it works again, if a failure was reported.
    pub(crate) fn works(&self, place: &Arc<str>, trouble: Trouble) {
        if !self.reported.load(Ordering::Acquire) {
            return;
        }
        let mut state = lock(&self.state);
        if state.reported.remove(&(Arc::clone(place), trouble)).is_none() {
            return;
        }
        self.reported.store(!state.reported.is_empty(), Ordering::Release);
        self.put(
            &mut state,
            Notice {
                trouble,
                place: Arc::clone(place),
                key: None,
                cause: None,
            },
        );
    }

    /// All that wait, the oldest first.
    pub(crate) fn take(&self) -> VecDeque<Notice> {
        if !self.waiting.load(Ordering::Acquire) {
            return VecDeque::new();
        }
        let mut state = lock(&self.state);
        // Under the lock, as in `put`: a notice that comes right after this sets it again.
        self.waiting.store(false, Ordering::Release);
        std::mem::take(&mut state.queue)
    }

    fn put(&self, state: &mut State, notice: Notice) {
        if state.queue.len() < MOST_WAITING {
            state.queue.push_back(notice);
            self.waiting.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;

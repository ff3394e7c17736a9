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

    fn write(&self, formatter: &mut impl fmt::Write) -> fmt::Result {
        let (place, key) = (&self.place, self.key.as_deref().unwrap_or("?"));
        match (self.trouble, &self.cause) {
            (Trouble::Listening, Some(cause)) => write!(
                formatter,
                "{place}: cannot listen for released locks, so that a waiter finds a released lock up to 0.3 s later: {cause}"
            ),
            (Trouble::Listening, None) => write!(formatter, "{place}: listens for released locks again"),
            (Trouble::Deleting, Some(cause)) => write!(
                formatter,
                "{place}: could not delete the lock {key}, which nobody holds any more; it stays until it expires: {cause}"
            ),
            (Trouble::Deleting, None) => write!(formatter, "{place}: deletes locks again"),
            (Trouble::Answering, Some(cause)) => {
                write!(
                    formatter,
                    "{place}: replaced a connection that did not answer: {cause}"
                )
            }
            (Trouble::Answering, None) => write!(formatter, "{place}: answers again"),
            (Trouble::WatchingChanges, Some(cause)) => write!(
                formatter,
                "{place}: cannot watch the file for changes, and looks at it every 3 ms while somebody waits for a lock: {cause}"
            ),
            (Trouble::WatchingChanges, None) => {
                write!(formatter, "{place}: watches the file for changes again")
            }
            (Trouble::LogRemoved | Trouble::OtherNames, Some(cause)) => write!(formatter, "{place}: {cause}"),
            (Trouble::LogRemoved, None) => write!(formatter, "{place}: opened anew"),
            (Trouble::OtherNames, None) => write!(formatter, "{place}: the file has one name again"),
        }
    }
}

/// One line, without control characters: keys and texts of servers are other people's.
impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text)?;
        formatter.write_str(&printable(&text))
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
mod tests {
    use super::*;

    fn texts(notices: &Notices) -> Vec<String> {
        notices.take().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_cause_is_reported_once_until_it_works_again() {
        let (notices, here, there) = (Notices::default(), Arc::from("here"), Arc::from("there"));
        notices.works(&here, Trouble::Listening);
        assert_eq!(texts(&notices), Vec::<String>::new(), "nothing had failed");
        for _ in 0..3 {
            notices.failed(&here, Trouble::Listening, None, "refused");
            notices.failed(&here, Trouble::Listening, None, "forbidden");
            notices.failed(&there, Trouble::Listening, None, "refused");
        }
        let failures = notices.take();
        assert_eq!(failures.len(), 3);
        assert!(failures.iter().all(|notice| !notice.is_good()));
        notices.works(&here, Trouble::Deleting);
        for _ in 0..3 {
            notices.works(&here, Trouble::Listening);
        }
        assert_eq!(texts(&notices), ["here: listens for released locks again"]);
        notices.failed(&here, Trouble::Listening, None, "refused");
        notices.failed(&there, Trouble::Listening, None, "refused");
        assert_eq!(notices.take().len(), 1);
    }

    #[test]
    fn causes_that_all_read_differently_are_a_few_lines_and_hide_nobody_else() {
        let (notices, here) = (Notices::default(), Arc::from("here"));
        for number in 0..1000 {
            notices.failed(&here, Trouble::Deleting, None, &format!("forbidden for {number}"));
        }
        assert_eq!(notices.take().len(), MOST_CAUSES);
        notices.failed(&Arc::from("there"), Trouble::Deleting, None, "forbidden");
        notices.failed(&here, Trouble::Answering, None, "silent");
        assert_eq!(notices.take().len(), 2);
        notices.works(&here, Trouble::Deleting);
        notices.failed(&here, Trouble::Deleting, None, "again");
        assert_eq!(notices.take().len(), 2);
    }

    #[test]
    fn a_process_in_which_nobody_takes_notices_keeps_a_bounded_number() {
        let notices = Notices::default();
        for number in 0..2 * MOST_WAITING {
            notices.failed(&Arc::from(number.to_string()), Trouble::Answering, None, "silent");
        }
        assert_eq!(notices.take().len(), MOST_WAITING);
    }

    #[test]
    fn a_notice_is_one_line() {
        let (notices, here) = (Notices::default(), Arc::from("here"));
        let key = Some(Arc::from("bid:lock:a\n:b"));
        notices.failed(&here, Trouble::Deleting, key, "\x1b[2Jforbidden\r\n");
        let texts = texts(&notices);
        assert!(texts[0].contains(r"the lock bid:lock:a\n:b, which"), "{texts:?}");
        assert!(texts[0].ends_with(r": \x1b[2Jforbidden\r\n"), "{texts:?}");
    }
}

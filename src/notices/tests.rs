//! Tests of the notices.

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

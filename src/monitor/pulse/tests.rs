//! Tests of the state of a watched loop.

use super::*;

const INTERVAL: Duration = Duration::from_millis(50);
const THRESHOLD: Duration = Duration::from_millis(100);

fn after(start: Instant, milliseconds: u64) -> Instant {
    start + Duration::from_millis(milliseconds)
}

/// A loop that beats by a timer, at first in 50 ms.
fn begin() -> (Pulse, Instant) {
    let start = Instant::now();
    (Pulse::new(THRESHOLD, start + INTERVAL), start)
}

/// A loop that tells when it runs and when it waits; it runs now.
fn begin_running() -> (Pulse, Instant) {
    let start = Instant::now();
    (Pulse::new(THRESHOLD, start), start)
}

fn beat(pulse: &mut Pulse, now: Instant) -> bool {
    pulse.sign(now, Some(now + INTERVAL))
}

#[test]
fn a_loop_that_beats_in_time_is_never_asked_about() {
    let (mut pulse, start) = begin();
    for number in 1..20 {
        let now = after(start, number * 50);
        assert!(!beat(&mut pulse, now));
        assert_eq!(pulse.next(now), Next::Sleep(Some(INTERVAL + THRESHOLD)));
    }
    let reading = pulse.reading(after(start, 950));
    assert_eq!((reading.stalls, reading.worst), (0, Duration::ZERO));
    assert_eq!(reading.histogram.total(), 19);
}

#[test]
fn a_loop_that_waits_is_left_alone_until_it_runs_again() {
    let (mut pulse, start) = begin_running();
    assert!(!pulse.sign(after(start, 30), None));
    assert_eq!(pulse.next(after(start, 100)), Next::Sleep(Some(THRESHOLD)));
    assert_eq!(pulse.next(after(start, 200)), Next::Sleep(None));
    assert!(
        pulse.sign(after(start, 9_000), Some(after(start, 9_000))),
        "wakes the thread"
    );
    assert!(!pulse.sign(after(start, 9_010), None), "once");
    let reading = pulse.reading(after(start, 9_010));
    assert_eq!((reading.stalls, reading.histogram.total()), (0, 2));
    assert_eq!(reading.worst, Duration::from_millis(30));
}

#[test]
fn a_stall_is_asked_about_once_while_it_lasts_and_its_end_is_told_once() {
    let (mut pulse, start) = begin_running();
    let later = Duration::from_millis(1);
    assert_eq!(pulse.next(after(start, 99)), Next::Sleep(Some(later)));
    assert_eq!(pulse.next(after(start, 100)), Next::AskWitness);
    pulse.judge(Verdict::Blocked);
    assert_eq!(pulse.next(after(start, 200)), Next::Sleep(None));
    assert_eq!(pulse.stalled_for(after(start, 200)), Some(2 * THRESHOLD));
    assert_eq!(pulse.reading(after(start, 200)).stalls, 1);
    assert_eq!(pulse.recent(after(start, 200)), [2 * THRESHOLD]);
    assert!(pulse.sign(after(start, 300), None));
    assert_eq!(pulse.next(after(start, 300)), Next::TellEnd(3 * THRESHOLD));
    assert!(matches!(pulse.next(after(start, 300)), Next::Sleep(Some(_))));
    let reading = pulse.reading(after(start, 351));
    assert_eq!((reading.stalls, reading.worst), (1, 3 * THRESHOLD));
    assert_eq!(pulse.recent(after(start, 351)), [3 * THRESHOLD]);
}

#[test]
fn a_loop_that_rests_is_not_blocked_and_its_next_sign_is_not_late() {
    let (mut pulse, start) = begin();
    assert_eq!(pulse.next(after(start, 150)), Next::AskWitness);
    pulse.judge(Verdict::Resting);
    assert_eq!(pulse.next(after(start, 5_000)), Next::Sleep(None));
    assert_eq!(pulse.reading(after(start, 5_000)).current, Duration::ZERO);
    assert!(beat(&mut pulse, after(start, 9_000)));
    let reading = pulse.reading(after(start, 9_000));
    assert_eq!((reading.stalls, reading.histogram.total()), (0, 0));
}

#[test]
fn a_verdict_that_comes_after_the_next_sign_is_out_of_date() {
    let (mut pulse, start) = begin();
    assert_eq!(pulse.next(after(start, 150)), Next::AskWitness);
    assert!(!beat(&mut pulse, after(start, 160)));
    pulse.judge(Verdict::Blocked);
    assert!(matches!(pulse.next(after(start, 160)), Next::Sleep(Some(_))));
    assert_eq!(pulse.reading(after(start, 160)).stalls, 1);
}

#[test]
fn a_thread_that_was_stopped_itself_gives_the_loop_another_chance() {
    let (mut pulse, start) = begin();
    assert_eq!(pulse.next(start), Next::Sleep(Some(INTERVAL + THRESHOLD)));
    assert_eq!(pulse.next(after(start, 10_000)), Next::Sleep(Some(THRESHOLD)));
    assert_eq!(pulse.next(after(start, 10_100)), Next::AskWitness);
}

#[test]
fn what_is_overdue_when_it_stops_counts_and_a_sign_after_it_does_not() {
    let (mut pulse, start) = begin();
    pulse.stop(after(start, 250));
    assert!(!beat(&mut pulse, after(start, 400)));
    assert_eq!(pulse.next(after(start, 400)), Next::Stop);
    let reading = pulse.reading(after(start, 400));
    assert_eq!((reading.stalls, reading.worst), (1, 2 * THRESHOLD));
}

#[test]
fn a_loop_that_has_gone_ends_the_watch() {
    let (mut pulse, start) = begin();
    assert_eq!(pulse.next(after(start, 150)), Next::AskWitness);
    pulse.judge(Verdict::Gone);
    assert_eq!(pulse.next(after(start, 151)), Next::Stop);
}

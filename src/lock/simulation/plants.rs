//! Faults that are planted into the real engine, a line each, to see that the simulation finds them.

use std::cell::Cell;

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
}

macro_rules! plants {
    ($($(#[doc = $meaning:literal])* $name:ident),* $(,)?) => {
        /// A fault that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::lock) enum Plant { $($(#[doc = $meaning])* $name,)* }

        impl Plant {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

plants! {
    /// A waiter that is not the first in its process gives up when the holder's lease would expire.
    EarlyTimeout,
    /// A release that found the row gone counts as a good one.
    IgnoredAnswerOfARelease,
    /// The failure of one operation is the answer to all that share its statement (in the simulated store).
    SharedFailure,
    /// A renewal that found no row is believed all the same.
    RenewalThatRevives,
    /// The automatic renewal takes back a longer one.
    RenewalThatUndoesALongerOne,
    /// A renewal whose answer is lost leaves a belief that the row need not bear out.
    UnansweredRenewalIsTrusted,
    /// The new holder believes for its whole time before the database has answered.
    HandOffThatTrustsTooLong,
    /// A late hand-off gives the row an earlier end than its holder believes in (in the simulated store).
    HandOffThatShortensALease,
    /// An acquisition whose answer was lost is forgotten when its caller leaves.
    ForgottenDoubt,
    /// A release whose first answer was lost reports a loss.
    ForgottenEarlierTry,
    /// A lock that is handed over in memory keeps its predecessor's token.
    TokenOutOfOrder,
    /// The end of a release does not send the next waiter's request.
    LostWakeUp,
    /// A statement that is carried out after it was given up leaves its row.
    LateStatement,
    /// What a holder believes counts from the answer.
    BeliefFromTheAnswer,
    /// A loss is not reported to whoever waits for it.
    UnreportedLoss,
    /// The request is sent a second time while the first is under way.
    TwoRequests,
    /// A newcomer takes its place behind the first, before the others.
    QueueJumper,
    /// The poller does not compare what it saw.
    BlindPoller,
    /// A release that failed is not carried out in the background.
    AbandonedRelease,
    /// A transient failure of a renewal ends the lease.
    OneFailedRenewalIsALoss,
    /// A renewal whose answer was lost is forgotten: it may yet be carried out, and give the row an earlier end.
    ForgottenDoubtOfARenewal,
    /// A waiter that leaves does not make the next one the first.
    ForgottenSuccessor,
    /// A waiter whose caller does not run is never removed.
    ForgottenOverdueWaiter,
    /// What was won for a waiter that is removed is not given back.
    ForgottenPrize,
    /// A waiter's time ends two seconds after its timeout.
    LateTimeout,
    /// A release waits twenty seconds for the database.
    LateRelease,
    /// What this process has held once is forgotten, so that a late release by name deletes its successor's row.
    ForgottenTombstone,
    /// Several locks are taken in the order in which they are asked for.
    UnorderedLocks,
    /// The look at the leases does not compare what it saw.
    BlindLossCheck,
    /// The pause between two looks of the poller is over at once.
    RestlessPoller,
    /// The poller is started again while it runs.
    ManyPollers,
    /// A fork copies the generator of the acquisitions' ids (in the simulated surroundings).
    ForkedIds,
}

pub(in crate::lock) fn is_planted(plant: Plant) -> bool {
    PLANTED.get() == Some(plant)
}

/// Plants a fault for all that this thread simulates, or takes it out.
pub(super) fn plant(plant: Option<Plant>) {
    PLANTED.set(plant);
}

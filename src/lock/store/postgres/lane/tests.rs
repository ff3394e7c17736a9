use std::future::pending;

use super::*;
use crate::lock::store::Listener;
use crate::lock::{Database, Options};

struct Nobody;

impl Listener for Nobody {
    fn changed(&self, _: u64) {}

    fn anything_changed(&self) {}
}

fn lane() -> Lane {
    let url = "postgresql://user@127.0.0.1:1/database";
    let Database::Postgres(settings) = Database::parse(url, &Options::default()).unwrap() else {
        panic!("{url} names a PostgreSQL server");
    };
    Lane::new(Arc::new(Shared::new(settings, Arc::new(Nobody))))
}

fn never() -> Unanswered {
    Unanswered {
        work: Box::pin(pending()),
        since: Instant::now(),
        backend: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_gets_ever_fewer_connections() {
    let mut lane = lane();
    let begun = Instant::now();
    let mut given_up = 0;
    while begun.elapsed() < Duration::from_secs(3600) {
        lane.wait_for(never()).await;
        given_up += 1;
        if given_up == 1 {
            // A single silent connection may be dead, so it is given up without a further wait.
            assert_eq!(begun.elapsed(), STATEMENT_ENDS);
        }
    }
    assert!(given_up <= 6, "{given_up}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_closed_waits_for_nothing() {
    let mut lane = lane();
    lane.replacement.done(&lane.shared.settings.keepalive);
    lane.shared.closing.send_replace(true);
    let begun = Instant::now();
    lane.wait_for(never()).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

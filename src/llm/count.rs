//! One call, counted from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use super::answer::Usage;
use super::metrics::Metrics;

/// A call under way, in the figures of its service and in those of its model. Dropped before it was told how the call ended,
/// it counts as cancelled.
#[derive(Debug)]
pub struct Count {
    figures: [Arc<Metrics>; 2],
    ended: bool,
}

impl Count {
    /// A call begins.
    #[must_use]
    pub fn begin(service: Arc<Metrics>, model: Arc<Metrics>) -> Self {
        let count = Self {
            figures: [service, model],
            ended: false,
        };
        count.tell(Metrics::call_started);
        count
    }

    /// A try after the first begins.
    pub(super) fn retried(&self) {
        self.tell(Metrics::retried);
    }

    /// The call brought an answer.
    pub fn succeeded(self, response_time: Duration, usage: Usage) {
        self.end(|figures| figures.call_succeeded(response_time, usage));
    }

    /// The call failed in a way that has this name: see [`Error::kind`](super::Error::kind).
    pub fn failed(self, kind: &str) {
        self.end(|figures| figures.call_failed(kind));
    }

    fn end(mut self, how: impl Fn(&Metrics)) {
        self.ended = true;
        self.tell(how);
    }

    fn tell(&self, what: impl Fn(&Metrics)) {
        self.figures.iter().for_each(|figures| what(figures));
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(Metrics::call_cancelled);
        }
    }
}

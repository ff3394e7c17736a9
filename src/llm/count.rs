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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_in_flight_until_its_one_end() {
        let (service, model) = (Arc::new(Metrics::default()), Arc::new(Metrics::default()));
        let begin = || Count::begin(Arc::clone(&service), Arc::clone(&model));
        let (answered, failed, dropped) = (begin(), begin(), begin());
        assert_eq!(model.snapshot().in_flight, 3);
        let usage = Usage {
            prompt_tokens: 1,
            completion_tokens: u64::MAX,
            total_tokens: 0,
        };
        answered.succeeded(Duration::from_secs(1), usage);
        failed.failed("timeout");
        drop(dropped);
        for figures in [service.snapshot(), model.snapshot()] {
            assert_eq!((figures.started, figures.in_flight), (3, 0));
            assert_eq!((figures.succeeded, figures.cancelled), (1, 1));
            assert_eq!(figures.failures.iter().map(|(_, count)| count).sum::<u64>(), 1);
            assert_eq!(figures.prompt_tokens, 1);
            assert!(figures.completion_tokens < 1 << 32, "no sum starts over");
        }
    }
}

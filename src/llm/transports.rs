//! The transports of one process, each made when it is first needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OnceCell;

use super::error::Error;
use super::transport::{Transport, TransportSettings};
use crate::mutex::lock;

/// The place of one transport. It is empty until the transport has been made.
type Place = Arc<OnceCell<Arc<Transport>>>;

/// Above this, transports that serve no call are dropped: someone gives every call settings of its
/// own.
const KEPT: usize = 16;

/// A process's transports: nearly always one.
#[derive(Default)]
pub struct Transports(Mutex<HashMap<TransportSettings, Place>>);

impl Transports {
    /// Finds or makes the transport. Needs an ambient tokio runtime.
    ///
    /// Making a transport reads the TLS roots from files, and a slow file system can delay that. So
    /// a separate thread makes it: neither a worker of the runtime nor a caller that reads the map
    /// waits for the file system.
    ///
    /// # Errors
    /// Those of [`Transport::new`]; the next call tries again.
    pub async fn get(&self, settings: TransportSettings) -> Result<Arc<Transport>, Error> {
        let place = self.place_of(settings.clone());
        if let Some(transport) = place.get() {
            return Ok(transport.clone());
        }
        let make = || async {
            tokio::task::spawn_blocking(move || Transport::new(settings).map(Arc::new))
                .await
                .unwrap_or(Err(Error::Closed("the runtime")))
        };
        // Callers that come meanwhile wait here for the same transport.
        place.get_or_try_init(make).await.cloned()
    }

    /// Requests under way through all of them.
    #[must_use]
    pub fn requests_under_way(&self) -> usize {
        self.places()
            .values()
            .filter_map(|place| place.get().map(|transport| transport.requests_under_way()))
            .sum()
    }

    fn place_of(&self, settings: TransportSettings) -> Place {
        let mut places = self.places();
        if !places.contains_key(&settings) && places.len() >= KEPT {
            // A share in the place: a caller is making the transport. A share in the transport: a
            // call uses it. A request under way: a stream has one of its connections.
            places.retain(|_, place| {
                let is_used =
                    |made: &Arc<Transport>| Arc::strong_count(made) > 1 || made.requests_under_way() > 0;
                Arc::strong_count(place) > 1 || place.get().is_some_and(is_used)
            });
        }
        places.entry(settings).or_default().clone()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<TransportSettings, Place>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(max_connections: usize) -> TransportSettings {
        TransportSettings {
            max_connections,
            ..TransportSettings::default()
        }
    }

    #[tokio::test]
    async fn calls_that_come_together_share_one_transport() {
        let transports = Transports::default();

        let (one, other) = tokio::join!(transports.get(settings(1)), transports.get(settings(1)));

        assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
        let third = transports.get(settings(1)).await.unwrap();
        assert!(Arc::ptr_eq(&third, &transports.get(settings(1)).await.unwrap()));
    }

    #[tokio::test]
    async fn of_too_many_transports_those_in_use_are_kept() {
        let transports = Transports::default();
        let used = transports.get(settings(1)).await.unwrap();

        for number in 2..=KEPT + 1 {
            transports.get(settings(number)).await.unwrap();
        }

        assert_eq!(transports.places().len(), 2, "the one in use and the last one");
        assert!(Arc::ptr_eq(&used, &transports.get(settings(1)).await.unwrap()));
    }
}

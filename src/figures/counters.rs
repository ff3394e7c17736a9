//! Counters as an array with a name for each place.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// An enum of counters: made by [`counters!`].
pub(crate) trait Counter: Copy + 'static {
    /// All of them, in the order of their places.
    const ALL: &'static [Self];

    fn place(self) -> usize;

    /// The name by which Python's dicts have it.
    fn name(self) -> &'static str;
}

/// Defines an enum of counters, one line for each: its variant and its name in Python's dicts.
macro_rules! counters {
    ($(#[$meta:meta])* enum $Enum:ident { $($(#[$variant_meta:meta])* $Variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $Enum { $($(#[$variant_meta])* $Variant,)* }

        impl $crate::figures::Counter for $Enum {
            const ALL: &'static [Self] = &[$(Self::$Variant,)*];

            fn place(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)* }
            }
        }
    };
}
pub(super) use counters;

/// One count for each variant of `C`.
#[derive(Debug)]
pub(crate) struct Counters<C> {
    counts: Box<[AtomicU64]>,
    named_by: PhantomData<C>,
}

impl<C: Counter> Default for Counters<C> {
    fn default() -> Self {
        Self {
            counts: C::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            named_by: PhantomData,
        }
    }
}

impl<C: Counter> Counters<C> {
    pub(crate) fn add(&self, counter: C, more: u64) {
        if let Some(count) = self.counts.get(counter.place()) {
            // No other memory depends on a count: nothing has to be ordered by it.
            count.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self, counter: C) -> u64 {
        self.counts
            .get(counter.place())
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Every name with its count.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        C::ALL.iter().map(|counter| (counter.name(), self.get(*counter)))
    }
}

//! How the states are told apart that have been seen.

use std::hash::{Hash, Hasher};

/// A state as 128 bits. It needs no protection against an adversary, and most of the time goes into hashing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(u64, u64);

impl Fingerprint {
    pub(super) fn of(state: &impl Hash) -> Self {
        let mut print = Self(1, 2);
        state.hash(&mut print);
        print
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..eight.len()].copy_from_slice(eight);
            self.write_u64(u64::from_le_bytes(padded));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let mix = |hash: u64, factor: u64| {
            let mixed = (hash ^ number).wrapping_mul(factor);
            mixed ^ (mixed >> 32)
        };
        self.0 = mix(self.0, 0x9e37_79b9_7f4a_7c15);
        self.1 = mix(self.1.rotate_left(23), 0xd6e8_feb8_6659_fd93);
    }
}

//! What the tasks of a scenario do.

use super::{Cancel, End, How, Step, Task};
use crate::lock::simulation::chance::Chance;

pub(super) fn task(chance: &mut Chance, processes: usize, keys: usize, latency: u64) -> Task {
    let process = chance.index(processes);
    let is_held_long = chance.percent(20);
    let steps = (0..chance.between(1, 4)).map(|_| step(chance, keys, latency, is_held_long));
    Task {
        process,
        steps: steps.collect(),
    }
}

fn step(chance: &mut Chance, keys: usize, latency: u64, is_held_long: bool) -> Step {
    let how = match chance.between(0, 5) {
        _ if keys > 1 && chance.percent(15) => How::Several,
        0 | 1 => How::Grant,
        kind => How::Lease {
            renewed: kind != 2,
            max_hold: (kind == 3).then(|| chance.one_of(&[800, 2500, 6000])),
            margin: chance.one_of(&[0, 0, 40]),
            is_checked: chance.percent(40),
        },
    };
    // A time to live that the ways of a renewal and its answer do not use up.
    let ttl = chance
        .one_of(&[400, 1500, 3000, 10_000, 60_000, 60_000])
        .max(latency * 30);
    Step {
        wait: chance.one_of(&[0, 0, 1, 10, 100, 700, 2500]),
        key: chance.index(keys),
        how,
        ttl,
        timeout: chance.one_of(&[0, 50, 500, 1000, 3000, 10_000, 10_000]),
        unpolled: if how != How::Several && chance.percent(5) {
            chance.one_of(&[5, 400, 4000, 12_000])
        } else {
            0
        },
        cancel: match chance.between(0, 11) {
            0 => Some(Cancel::After(chance.one_of(&[0, 1, 3, 30, 300, 1200]))),
            1 => Some(Cancel::AtPoll(chance.between(1, 4))),
            _ => None,
        },
        hold: if is_held_long {
            chance.one_of(&[2000, 5000, 9000])
        } else {
            chance.one_of(&[0, 0, 1, 5, 50, 300, 1000, 3000])
        },
        renew: if chance.percent(12) {
            Some(chance.one_of(&[300, 2000, 20_000, 90_000]).max(latency * 30))
        } else {
            None
        },
        end: match chance.between(0, 9) {
            0..=5 if how == How::Grant && chance.percent(50) => {
                chance.one_of(&[End::ByName, End::ByName, End::ByNameElsewhere])
            }
            0..=5 => End::Release,
            6 => End::ReleaseLeft(chance.between(0, 3)),
            7 | 8 => End::Drop,
            _ => End::Keep,
        },
    }
}

impl Step {
    /// Nobody else may release a lease by its holder's name.
    fn released_here(&mut self) {
        if self.end == End::ByNameElsewhere {
            self.end = End::ByName;
        }
    }

    pub(super) fn renewed_sooner(&mut self, chance: &mut Chance, latency: u64) {
        self.released_here();
        self.how = How::Lease {
            renewed: true,
            max_hold: None,
            margin: 0,
            is_checked: chance.percent(40),
        };
        (self.ttl, self.timeout) = (60_000, 10_000);
        (self.cancel, self.unpolled) = (None, 0);
        self.hold = chance.one_of(&[5000, 9000]);
        self.renew = Some(chance.one_of(&[700, 2000]).max(latency * 30));
    }

    pub(super) fn meets_the_other(&mut self, chance: &mut Chance) {
        self.wait = chance.one_of(&[1, 10, 30]);
        self.hold = chance.one_of(&[1, 5, 30]);
        (self.ttl, self.timeout) = (60_000, 10_000);
        (self.renew, self.unpolled) = (None, 0);
        self.end = End::Release;
    }

    pub(super) fn hands_on(&mut self, chance: &mut Chance) {
        self.released_here();
        self.how = How::Lease {
            renewed: chance.percent(70),
            max_hold: None,
            margin: 0,
            is_checked: chance.percent(40),
        };
        self.ttl = self.ttl.max(1500);
        self.hold = chance.one_of(&[5, 300, 1000, 3000]);
        if chance.percent(40) {
            self.renew = Some(chance.one_of(&[20_000, 90_000]));
        }
    }
}

//! Which units of a family are done, and who of this run works on which: no unit is done twice in one run.
//!
//! Stages of one family (those of two variants, say) share what is known, and claim the units that they hand out. A stage takes
//! other units first, and waits for those that another has claimed; what the other gives up is free again.

use super::{RunError, lock};
use crate::cache::{BatchRecord, Cache, Digest, Family};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The families that are in use in a run.
#[derive(Default)]
pub(super) struct Ledger {
    families: Mutex<BTreeMap<Digest, Weak<Claims>>>,
    next_owner: AtomicU64,
}

impl Ledger {
    /// What is known of a family, with what others have recorded since; and a number for whoever claims units of it.
    ///
    /// # Errors
    /// Where the records cannot be listed.
    pub(super) fn open(&self, cache: &Cache, family: Digest) -> Result<(Arc<Claims>, u64), RunError> {
        let claims = {
            let mut families = lock(&self.families);
            families.get(&family).and_then(Weak::upgrade).unwrap_or_else(|| {
                let fresh = Arc::new(Claims { family, state: Mutex::default(), changed: Condvar::new() });
                families.insert(family, Arc::downgrade(&fresh));
                fresh
            })
        };
        cache.refresh_family(&family, &mut claims.state().known)?;
        Ok((claims, self.next_owner.fetch_add(1, Ordering::Relaxed)))
    }
}

/// What is known of a family, and what is claimed.
pub(super) struct Claims {
    family: Digest,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// The finished units.
    pub(super) known: Family,
    claimed: HashMap<Digest, u64>,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// The unit is ours to do.
    Ours,
    /// It is done.
    Known,
    /// Somebody works on it.
    Taken,
}

impl State {
    /// Whether somebody works on a unit.
    pub(super) fn is_claimed(&self, unit: &Digest) -> bool {
        self.claimed.contains_key(unit)
    }

    /// Claims a unit.
    pub(super) fn claim(&mut self, unit: Digest, owner: u64) -> Claim {
        if self.known.has(&unit) {
            return Claim::Known;
        }
        match self.claimed.entry(unit) {
            std::collections::hash_map::Entry::Occupied(_) => Claim::Taken,
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(owner);
                Claim::Ours
            }
        }
    }
}

impl Claims {
    /// The family.
    pub(super) fn family(&self) -> Digest {
        self.family
    }

    /// What is known and claimed; others wait meanwhile.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds what was committed, and ends the claims on these units.
    pub(super) fn done(&self, batch: &BatchRecord, units: impl IntoIterator<Item = Digest>) {
        self.state().known.add(batch);
        self.give_up(units);
    }

    /// Ends the claims on units: whoever else needs them does them.
    pub(super) fn give_up(&self, units: impl IntoIterator<Item = Digest>) {
        let mut state = self.state();
        for unit in units {
            state.claimed.remove(&unit);
        }
        self.changed.notify_all();
    }

    /// Ends all claims of an owner.
    pub(super) fn give_up_all(&self, owner: u64) {
        self.state().claimed.retain(|_, claimed_by| *claimed_by != owner);
        self.changed.notify_all();
    }

    /// Waits until something is done or given up, or for a short while.
    pub(super) fn wait(&self) {
        // Whoever waits looks for itself; the limit lets it see that the run was cancelled.
        let _ =
            self.changed.wait_timeout(self.state(), Duration::from_millis(100)).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_claimed_by_one_and_free_when_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (ledger, family) = (Ledger::default(), Digest::of_bytes(b"family"));
        let (first, one) = ledger.open(&cache, family).unwrap();
        let (second, two) = ledger.open(&cache, family).unwrap();
        assert!(Arc::ptr_eq(&first, &second) && one != two);
        let [a, b] = [Digest::of_bytes(b"a"), Digest::of_bytes(b"b")];
        assert_eq!(first.state().claim(a, one), Claim::Ours);
        assert_eq!(second.state().claim(a, two), Claim::Taken);
        assert_eq!(second.state().claim(b, two), Claim::Ours);
        first.give_up_all(one);
        assert_eq!(second.state().claim(a, two), Claim::Ours);
        assert_eq!(first.state().claim(b, one), Claim::Taken);
    }
}

//! How a budget is cut into slots of several sizes. Pure arithmetic.

use odmoe_formats::ByteCount;
use std::collections::BTreeMap;

/// Slots start on multiples of this, and are multiples of it.
pub const SLOT_ALIGNMENT_BYTES: u64 = 16 << 10;
/// The most that is allocated at once, unless one slot is larger.
pub const EXTENT_BYTES: u64 = 64 << 20;
/// Extents that all objects would take at least: where they are few and small, a budget still changes in small steps.
const EXTENTS_MIN: u64 = 16;
/// Slots of the first extent of a class. It stays for as long as the class has any, so that what is drained never holds
/// up those who wait.
pub const FIRST_EXTENT_SLOTS: usize = 2;
/// More sizes than this share classes: each class has slots that the others cannot use.
const CLASSES_MAX: usize = 8;

/// The slot that an object of `bytes` takes.
pub const fn slot_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(SLOT_ALIGNMENT_BYTES) * SLOT_ALIGNMENT_BYTES
}

/// Slots of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeClass {
    /// Length of each slot.
    pub slot_bytes: u64,
    /// How many.
    pub slots: usize,
}

/// The slots of one memory tier, smallest class first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotLayout {
    classes: Vec<SizeClass>,
    /// The most that is allocated at once; the same for every budget of the same objects.
    extent_bytes: u64,
}

/// A class while it is planned.
#[derive(Clone, Copy)]
struct Demanded {
    slot_bytes: u64,
    objects: usize,
    /// Of them, those that never leave.
    kept: usize,
}

impl Demanded {
    /// A slot for each that is kept, and two for the others to take turns in.
    fn least_slots(&self) -> usize {
        self.objects.min(self.kept + 2)
    }

    fn least_bytes(&self) -> u64 {
        self.slot_bytes.saturating_mul(self.least_slots() as u64)
    }

    /// Bytes of what takes turns.
    fn weight(&self) -> u128 {
        u128::from(self.slot_bytes) * (self.objects - self.kept) as u128
    }
}

impl SlotLayout {
    /// From classes in ascending size.
    pub fn new(classes: Vec<SizeClass>) -> Self {
        assert!(
            classes.is_sorted_by(|a, b| a.slot_bytes < b.slot_bytes),
            "classes ascend in size"
        );
        Self {
            classes,
            extent_bytes: EXTENT_BYTES,
        }
    }

    /// Cuts a budget for objects of these sizes, or None where it does not hold two of the largest.
    ///
    /// Each class first gets two slots, the rest is shared in proportion to the bytes of its objects; no class gets
    /// more slots than it has objects. Where two of each do not fit, small classes use the slots of larger ones.
    pub fn plan(object_bytes: impl Iterator<Item = u64>, budget: ByteCount) -> Option<Self> {
        Self::plan_keeping(object_bytes.map(|bytes| (bytes, false)), budget)
    }

    /// As [`Self::plan`], where some objects never leave: with each object's bytes comes whether it is kept. Each class
    /// first gets a slot for each object that is kept in it, beside the two.
    pub fn plan_keeping(
        objects: impl Iterator<Item = (u64, bool)>,
        budget: ByteCount,
    ) -> Option<Self> {
        let mut classes = demanded(objects);
        let full: u64 = classes
            .iter()
            .map(|c| c.slot_bytes.saturating_mul(c.objects as u64))
            .fold(0, u64::saturating_add);
        while classes.len() > CLASSES_MAX || (least(&classes) > budget.0 && classes.len() > 1) {
            merge_cheapest(&mut classes);
        }
        if least(&classes) > budget.0 {
            return None;
        }
        Some(Self {
            classes: share(&classes, budget.0),
            extent_bytes: EXTENT_BYTES.min(full / EXTENTS_MIN),
        })
    }

    /// The least budget that [`Self::plan_keeping`] takes for these objects.
    pub fn least_keeping(objects: impl Iterator<Item = (u64, bool)>) -> ByteCount {
        let mut classes = demanded(objects);
        while classes.len() > CLASSES_MAX {
            merge_cheapest(&mut classes);
        }
        let mut found = least(&classes);
        // With fewer classes fewer slots are set aside, but small objects that stay take large ones.
        while classes.len() > 1 {
            merge_cheapest(&mut classes);
            found = found.min(least(&classes));
        }
        ByteCount(found)
    }

    /// Slots of a class in each extent but its first, at least one.
    pub fn slots_per_extent(&self, slot_bytes: u64) -> usize {
        (self.extent_bytes / slot_bytes).max(1) as usize
    }

    /// The classes, smallest first.
    pub fn classes(&self) -> &[SizeClass] {
        &self.classes
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> ByteCount {
        ByteCount(
            self.classes
                .iter()
                .map(|c| c.slot_bytes * c.slots as u64)
                .sum(),
        )
    }
}

/// A class for each size of slot, smallest first.
fn demanded(objects: impl Iterator<Item = (u64, bool)>) -> Vec<Demanded> {
    let mut classes: BTreeMap<u64, Demanded> = BTreeMap::new();
    for (bytes, kept) in objects {
        let slot_bytes = slot_bytes(bytes).max(SLOT_ALIGNMENT_BYTES);
        let class = classes.entry(slot_bytes).or_insert(Demanded {
            slot_bytes,
            objects: 0,
            kept: 0,
        });
        class.objects += 1;
        class.kept += usize::from(kept);
    }
    classes.into_values().collect()
}

fn least(classes: &[Demanded]) -> u64 {
    classes
        .iter()
        .map(Demanded::least_bytes)
        .fold(0, u64::saturating_add)
}

/// Puts the class whose objects waste the fewest bytes in slots of the next size into these.
fn merge_cheapest(classes: &mut Vec<Demanded>) {
    let waste = |at: &usize| {
        (classes[at + 1].slot_bytes - classes[*at].slot_bytes)
            .saturating_mul(classes[*at].objects as u64)
    };
    let at = (0..classes.len() - 1)
        .min_by_key(waste)
        .expect("two classes");
    let merged = classes.remove(at);
    classes[at].objects += merged.objects;
    classes[at].kept += merged.kept;
}

fn share(classes: &[Demanded], budget: u64) -> Vec<SizeClass> {
    let total: u128 = classes.iter().map(Demanded::weight).sum();
    let mut slots: Vec<usize> = classes.iter().map(Demanded::least_slots).collect();
    let used = |slots: &[usize]| -> u64 {
        classes
            .iter()
            .zip(slots)
            .map(|(c, n)| c.slot_bytes * *n as u64)
            .sum()
    };
    let spare = budget - used(&slots);
    for (class, slots) in classes.iter().zip(&mut slots) {
        // Where all is kept each object has its slot already.
        let part = (u128::from(spare) * class.weight() / total.max(1)) as u64;
        *slots = (*slots + (part / class.slot_bytes) as usize).min(class.objects);
    }
    // What rounding left over goes to the class that is furthest from holding all its objects.
    loop {
        let spare = budget - used(&slots);
        let next = (0..classes.len())
            .filter(|&i| classes[i].slot_bytes <= spare && slots[i] < classes[i].objects)
            .max_by(|&a, &b| {
                let missing = |i: usize| (classes[i].objects - slots[i]) as u128;
                (missing(a) * classes[b].objects as u128)
                    .cmp(&(missing(b) * classes[a].objects as u128))
            });
        let Some(next) = next else { break };
        slots[next] += 1;
    }
    classes
        .iter()
        .zip(slots)
        .map(|(c, slots)| SizeClass {
            slot_bytes: c.slot_bytes,
            slots,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn plan(sizes: &[(u64, usize)], budget: u64) -> Option<Vec<(u64, usize)>> {
        let objects = sizes
            .iter()
            .flat_map(|&(bytes, n)| std::iter::repeat_n(bytes, n));
        SlotLayout::plan(objects, ByteCount(budget)).map(|l| {
            l.classes()
                .iter()
                .map(|c| (c.slot_bytes / KIB, c.slots))
                .collect()
        })
    }

    #[test]
    fn least_is_two_of_the_largest() {
        let sizes = [(4 * KIB, 10), (60 * KIB, 3)];
        assert_eq!(plan(&sizes, 128 * KIB - 1), None);
        assert_eq!(
            plan(&sizes, 128 * KIB),
            Some(vec![(64, 2)]),
            "small objects use large slots"
        );
        assert_eq!(
            plan(&[(4 * KIB, 1)], 16 * KIB),
            Some(vec![(16, 1)]),
            "one object needs one slot"
        );
        assert_eq!(plan(&[], 0), Some(vec![]));
    }

    #[test]
    fn two_of_each_class_then_in_proportion() {
        let sizes = [(16 * KIB, 100), (32 * KIB, 50)];
        assert_eq!(plan(&sizes, 96 * KIB), Some(vec![(16, 2), (32, 2)]));
        assert_eq!(plan(&sizes, 1600 * KIB), Some(vec![(16, 50), (32, 25)]));
    }

    #[test]
    fn never_more_slots_than_objects_nor_bytes_than_budget() {
        assert_eq!(
            plan(&[(16 * KIB, 4), (64 * KIB, 3)], 1 << 40),
            Some(vec![(16, 4), (64, 3)])
        );
        for budget in (0..3000).map(|i| i * 1000) {
            let sizes: Vec<_> = (1..20).map(|i| (i * 13_000, 1 + i as usize % 5)).collect();
            let Some(classes) = plan(&sizes, budget) else {
                continue;
            };
            assert!(classes.len() <= CLASSES_MAX);
            assert!(
                classes
                    .iter()
                    .map(|&(kib, n)| kib * KIB * n as u64)
                    .sum::<u64>()
                    <= budget
            );
            assert!(
                classes.iter().all(|&(_, n)| n >= 2),
                "{classes:?} at {budget}"
            );
        }
    }

    #[test]
    fn what_is_kept_has_slots_beside_two() {
        let sizes = [(16 * KIB, 8), (64 * KIB, 8)];
        let objects = || {
            let all = sizes.iter();
            all.flat_map(|&(bytes, n)| (0..n).map(move |i| (bytes, i)))
        };
        for kept_small in 0..=8 {
            for kept_large in 0..=8 {
                let kept = |(bytes, i): (u64, usize)| {
                    let kept = if bytes == 16 * KIB {
                        kept_small
                    } else {
                        kept_large
                    };
                    (bytes, i < kept)
                };
                let least = SlotLayout::least_keeping(objects().map(kept));
                let plan = |budget| SlotLayout::plan_keeping(objects().map(kept), budget);
                assert_eq!(plan(ByteCount(least.0 - 1)), None);
                for budget in (least.0..=700 * KIB).step_by(9 * KIB as usize) {
                    let layout = plan(ByteCount(budget)).unwrap();
                    assert!(layout.bytes().0 <= budget);
                    let slots: Vec<_> = layout.classes().iter().map(|c| c.slots).collect();
                    let enough = match slots[..] {
                        [small, large] => {
                            small >= 8.min(kept_small + 2) && large >= 8.min(kept_large + 2)
                        }
                        [all] => all >= 16.min(kept_small + kept_large + 2),
                        _ => false,
                    };
                    assert!(
                        enough,
                        "{kept_small}, {kept_large} in {slots:?} at {budget}"
                    );
                }
            }
        }
    }

    #[test]
    fn extents_are_small_where_there_is_little_to_hold() {
        let layout = |sizes: &[(u64, usize)]| {
            let objects = sizes
                .iter()
                .flat_map(|&(bytes, n)| std::iter::repeat_n(bytes, n));
            SlotLayout::plan(objects, ByteCount(1 << 30)).unwrap()
        };
        let large = layout(&[(48 << 20, 3), (2 << 20, 600)]);
        assert_eq!(large.slots_per_extent(48 << 20), 1);
        assert_eq!(large.slots_per_extent(2 << 20), 32);
        assert_eq!(layout(&[(112 * KIB, 192)]).slots_per_extent(112 * KIB), 12);
        assert_eq!(layout(&[(112 * KIB, 3)]).slots_per_extent(112 * KIB), 1);
    }
}

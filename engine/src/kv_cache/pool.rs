//! The free list of KV blocks.

/// Hands out block numbers `0 .. blocks`, each to one owner at a time.
///
/// Deterministic: fresh blocks come in ascending order, then the one freed last comes first.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// The next block is the last entry.
    pub(super) free: Vec<u32>,
    /// By block, whether somebody owns it: what tells a double free from a free.
    pub(super) owned: Vec<bool>,
    /// Blocks from here on are not handed out; see `limit`.
    pub(super) limit: usize,
    /// Of these, those that nobody owns.
    pub(super) withheld: usize,
}

impl BlockPool {
    /// A pool in which all blocks are free. Block numbers are u32: more than that many is a bug.
    pub fn new(blocks: usize) -> Self {
        let count = u32::try_from(blocks).expect("KV block numbers are u32");
        Self {
            free: (0..count).rev().collect(),
            owned: vec![false; blocks],
            limit: blocks,
            withheld: 0,
        }
    }

    /// All blocks or none: appends `count` blocks to `into`, or returns false and changes nothing.
    pub fn allocate(&mut self, count: usize, into: &mut Vec<u32>) -> bool {
        let Some(rest) = self.free.len().checked_sub(count) else {
            return false;
        };
        for block in self.free.drain(rest..).rev() {
            let owned = &mut self.owned[block as usize];
            assert!(!*owned, "KV block {block} was free and owned at once");
            *owned = true;
            into.push(block);
        }
        true
    }

    /// Takes blocks back. A block that nobody owns is a bug.
    pub fn release(&mut self, blocks: impl DoubleEndedIterator<Item = u32>) {
        for block in blocks.rev() {
            let owned = &mut self.owned[block as usize];
            assert!(*owned, "KV block {block} was freed twice");
            *owned = false;
            if (block as usize) < self.limit {
                self.free.push(block);
            } else {
                self.withheld += 1;
            }
        }
    }

    /// Blocks that there can be.
    pub fn blocks(&self) -> usize {
        self.owned.len()
    }

    /// Blocks that nobody owns.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that somebody owns.
    pub fn used(&self) -> usize {
        self.blocks() - self.free() - self.withheld
    }

    /// Panics unless every block is either free, once, or in `tables`, once.
    pub fn check_owners<'a>(&self, tables: impl Iterator<Item = &'a [u32]>) {
        let mut seen = vec![false; self.blocks()];
        for &block in &self.free {
            assert!(
                !self.owned[block as usize],
                "KV block {block} is free and owned"
            );
            assert!(
                !std::mem::replace(&mut seen[block as usize], true),
                "KV block {block} is free twice"
            );
        }
        for &block in tables.flatten() {
            assert!(
                self.owned[block as usize],
                "KV block {block} is used but not owned"
            );
            assert!(
                !std::mem::replace(&mut seen[block as usize], true),
                "KV block {block} has two owners"
            );
        }
        let (below, above) = seen.split_at(self.limit);
        assert!(below.iter().all(|&seen| seen), "a KV block leaked");
        let unseen = above.iter().filter(|seen| !**seen).count();
        assert_eq!(unseen, self.withheld, "a withheld KV block leaked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_order_and_the_one_freed_last_first() {
        let mut pool = BlockPool::new(4);
        let mut blocks = Vec::new();
        assert!(pool.allocate(3, &mut blocks));
        assert_eq!(blocks, [0, 1, 2]);
        pool.release([0, 1].into_iter());
        assert_eq!((pool.used(), pool.free()), (1, 3));
        let mut again = Vec::new();
        assert!(pool.allocate(3, &mut again));
        assert_eq!(again, [0, 1, 3]);
        pool.check_owners([[2].as_slice(), &again].into_iter());
    }

    #[test]
    fn too_few_blocks_change_nothing() {
        let mut pool = BlockPool::new(2);
        let mut blocks = Vec::new();
        assert!(!pool.allocate(3, &mut blocks));
        assert!(blocks.is_empty() && pool.free() == 2);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_double_free_is_a_bug() {
        let mut pool = BlockPool::new(2);
        pool.allocate(1, &mut Vec::new());
        pool.release([0, 0].into_iter());
    }

    #[test]
    #[should_panic(expected = "leaked")]
    fn a_leak_is_found() {
        let mut pool = BlockPool::new(2);
        pool.allocate(1, &mut Vec::new());
        pool.check_owners(std::iter::empty());
    }

    #[test]
    #[should_panic(expected = "two owners")]
    fn a_shared_block_is_found() {
        let mut pool = BlockPool::new(2);
        pool.allocate(1, &mut Vec::new());
        pool.check_owners([[0].as_slice(), &[0]].into_iter());
    }
}

//! The free list of KV blocks.

use super::prefixes::{Parent, PrefixScope, PrefixTree};

/// Hands out block numbers `0 .. blocks`. A block has one owner until it is remembered; then it may have several.
///
/// Deterministic: fresh blocks come in ascending order, then the one freed last comes first, and remembered blocks
/// that nobody holds come after all others, the one that was let go longest ago first.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// Free, with nothing to remember, below the limit. The next block is the last entry.
    pub(super) blank: Vec<u32>,
    /// By block, how many own it.
    pub(super) owners: Vec<u32>,
    /// By block, whether its owners may be several: it is full, and was remembered since somebody owns it.
    sealed: Vec<bool>,
    pub(super) prefixes: PrefixTree,
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
            blank: (0..count).rev().collect(),
            owners: vec![0; blocks],
            sealed: vec![false; blocks],
            prefixes: PrefixTree::new(blocks),
            limit: blocks,
            withheld: 0,
        }
    }

    /// All blocks or none: appends `count` blocks to `into`, or returns false and changes nothing.
    pub fn allocate(&mut self, count: usize, into: &mut Vec<u32>) -> bool {
        if self.free() < count {
            return false;
        }
        for _ in 0..count {
            let block = self.blank.pop().or_else(|| self.prefixes.forget_oldest());
            let block = block.expect("counted just now");
            let owners = &mut self.owners[block as usize];
            assert_eq!(*owners, 0, "KV block {block} was free and owned at once");
            *owners = 1;
            into.push(block);
        }
        true
    }

    /// Takes an owner from each block, the last block first. A block that nobody owns is a bug.
    pub fn release(&mut self, blocks: impl DoubleEndedIterator<Item = u32>) {
        for block in blocks.rev() {
            let owners = &mut self.owners[block as usize];
            assert!(*owners > 0, "KV block {block} was freed twice");
            *owners -= 1;
            if *owners > 0 {
                continue;
            }
            self.sealed[block as usize] = false;
            if self.prefixes.contains(block) {
                self.prefixes.let_go(block);
            } else if (block as usize) < self.limit {
                self.blank.push(block);
            } else {
                self.withheld += 1;
            }
        }
    }

    /// The blocks that hold the longest remembered prefix of `tokens`.
    pub fn longest_prefix(
        &self,
        scope: PrefixScope,
        tokens: &[u32],
        block_tokens: usize,
    ) -> impl Iterator<Item = u32> {
        self.prefixes.longest(scope, tokens, block_tokens)
    }

    /// How many own a block.
    pub fn owners(&self, block: u32) -> usize {
        self.owners[block as usize] as usize
    }

    /// Adds an owner to a remembered block. Its owner must own all blocks before it too.
    pub fn share(&mut self, block: u32) {
        assert!(
            self.prefixes.contains(block),
            "KV block {block} is shared and not remembered"
        );
        let owners = &mut self.owners[block as usize];
        *owners += 1;
        if *owners == 1 {
            self.sealed[block as usize] = true;
            self.prefixes.take_up(block);
        }
    }

    /// Remembers a full block of one owner by the prefix that it ends. Where another block ends the same prefix, the
    /// owner gets that one in exchange: both hold the same bits. What follows a block that was forgotten is not
    /// remembered either.
    pub fn remember(&mut self, parent: Parent, tokens: &[u32], block: u32) -> u32 {
        assert_eq!(
            self.owners(block),
            1,
            "KV block {block} is remembered too late"
        );
        let is_forgotten =
            matches!(parent, Parent::Block(parent) if !self.prefixes.contains(parent));
        if is_forgotten || block as usize >= self.limit {
            return block;
        }
        let Some(known) = self.prefixes.child(parent, tokens) else {
            self.prefixes.insert(parent, tokens, block);
            self.sealed[block as usize] = true;
            return block;
        };
        self.share(known);
        self.release(std::iter::once(block));
        known
    }

    /// Blocks that there can be.
    pub fn blocks(&self) -> usize {
        self.owners.len()
    }

    /// Blocks that nobody owns.
    pub fn free(&self) -> usize {
        self.blank.len() + self.prefixes.idle()
    }

    /// Of them, those that remember a prefix.
    pub fn remembered(&self) -> usize {
        self.prefixes.idle()
    }

    /// Blocks that somebody owns.
    pub fn used(&self) -> usize {
        self.blocks() - self.free() - self.withheld
    }

    /// Panics unless every block is either free, once, or in as many `tables` as it has owners; in more than one only
    /// where it is remembered.
    pub fn check_owners<'a>(&self, tables: impl Iterator<Item = &'a [u32]>) {
        let mut owners = vec![0; self.blocks()];
        for &block in tables.flatten() {
            owners[block as usize] += 1;
        }
        let mut free = vec![false; self.blocks()];
        for &block in &self.blank {
            let before = std::mem::replace(&mut free[block as usize], true);
            assert!(!before, "KV block {block} is free twice");
            assert!(
                !self.prefixes.contains(block),
                "KV block {block} is blank and remembered"
            );
        }
        let (mut idle, mut unaccounted, mut withheld) = (0, 0, 0);
        for (block, &seen) in (0..).zip(&owners) {
            let (told, remembered) = (self.owners[block as usize], self.prefixes.contains(block));
            assert!(
                seen <= 1 || self.sealed[block as usize],
                "KV block {block} has {seen} owners and was never remembered"
            );
            assert!(
                told >= seen,
                "KV block {block} is used by {seen} and owned by {told}"
            );
            assert!(
                told == 0 || !free[block as usize],
                "KV block {block} is free and owned"
            );
            idle += usize::from(told == 0 && remembered);
            unaccounted += usize::from(told > seen);
            let is_gone = told == 0 && !remembered && !free[block as usize];
            let is_withheld = is_gone && block as usize >= self.limit;
            withheld += usize::from(is_withheld);
            unaccounted += usize::from(is_gone && !is_withheld);
        }
        assert_eq!(unaccounted, 0, "KV blocks leaked");
        assert_eq!(withheld, self.withheld, "withheld KV blocks leaked");
        assert_eq!(idle, self.prefixes.idle(), "KV blocks are idle and held");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PrefixScope = PrefixScope(0);

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
    fn remembered_blocks_are_free_and_handed_out_last() {
        let mut pool = BlockPool::new(3);
        let mut blocks = Vec::new();
        assert!(pool.allocate(2, &mut blocks));
        assert_eq!(pool.remember(Parent::Start(ME), &[7], 0), 0);
        assert_eq!(pool.remember(Parent::Block(0), &[8], 1), 1);
        pool.release([0, 1].into_iter());
        assert_eq!((pool.free(), pool.remembered()), (3, 2));
        let mut other = Vec::new();
        assert!(pool.allocate(2, &mut other));
        assert_eq!(other, [2, 1], "the end of the prefix before its beginning");
        let prefix: Vec<u32> = pool.longest_prefix(ME, &[7, 8], 1).collect();
        assert_eq!(prefix, [0]);
        pool.share(0);
        assert!(!pool.allocate(1, &mut other), "the prefix is held again");
        pool.check_owners([[0].as_slice(), &other].into_iter());
    }

    #[test]
    fn a_block_that_ends_a_known_prefix_is_exchanged() {
        let mut pool = BlockPool::new(2);
        let mut blocks = Vec::new();
        assert!(pool.allocate(2, &mut blocks));
        assert_eq!(pool.remember(Parent::Start(ME), &[7], 0), 0);
        assert_eq!(pool.remember(Parent::Start(ME), &[7], 1), 0);
        assert_eq!((pool.used(), pool.owners(0)), (1, 2));
        pool.check_owners([[0].as_slice(), &[0]].into_iter());
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
    #[should_panic(expected = "2 owners and was never remembered")]
    fn a_shared_block_is_found() {
        let mut pool = BlockPool::new(2);
        pool.allocate(1, &mut Vec::new());
        pool.check_owners([[0].as_slice(), &[0]].into_iter());
    }
}

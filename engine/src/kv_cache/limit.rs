//! Fewer blocks than there could be: what a KV cache gives up for experts, or takes from them.
//!
//! Blocks are given up from the end, so that what is left is one range of memory a layer. One that somebody owns leaves
//! when it is free. What was remembered is forgotten then, so that nobody begins to share a block that is to leave.

use super::BlockPool;

impl BlockPool {
    /// From now on only blocks `0 .. limit` are handed out. More than there can be is a bug.
    pub fn set_limit(&mut self, limit: usize) {
        assert!(
            limit <= self.blocks(),
            "{limit} KV blocks of {}",
            self.blocks()
        );
        if limit < self.limit {
            // They come after those that remembered nothing.
            let forgotten = self.prefixes.forget_all();
            self.blank.splice(..0, forgotten.into_iter().rev());
            let before = self.blank.len();
            self.blank.retain(|block| (*block as usize) < limit);
            self.withheld += before - self.blank.len();
        } else {
            let fresh = self.limit..limit;
            let fresh = fresh.rev().filter(|block| self.owners[*block] == 0);
            // They come after those that are free already.
            let fresh: Vec<u32> = fresh.map(|block| block as u32).collect();
            self.withheld -= fresh.len();
            self.blank.splice(..0, fresh);
        }
        self.limit = limit;
    }

    /// Blocks that are handed out, owned or free.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// No block from here on is owned or will be handed out.
    pub fn bound(&self) -> usize {
        let beyond = &self.owners[self.limit..];
        if self.withheld == beyond.len() {
            return self.limit;
        }
        let last = beyond.iter().rposition(|owners| *owners > 0);
        last.map_or(self.limit, |last| self.limit + last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::{BlockTable, PrefixScope};

    #[test]
    fn owned_blocks_leave_when_they_are_free() {
        let mut pool = BlockPool::new(6);
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        assert!(pool.allocate(2, &mut mine) && pool.allocate(2, &mut others));
        pool.set_limit(1);
        assert_eq!((pool.used(), pool.free(), pool.bound()), (4, 0, 4));
        pool.release(others.drain(..));
        assert_eq!((pool.used(), pool.free(), pool.bound()), (2, 0, 2));
        pool.check_owners([mine.as_slice()].into_iter());
        pool.release(mine.drain(..));
        assert_eq!((pool.used(), pool.free(), pool.bound()), (0, 1, 1));
        assert!(!pool.allocate(2, &mut mine));
        pool.check_owners(std::iter::empty());
    }

    #[test]
    fn what_is_remembered_is_forgotten_and_its_owners_go_on() {
        let mut pool = BlockPool::new(6);
        let scope = PrefixScope(0);
        let text = [1, 2, 3, 4];
        let (mut table, mut other) = (BlockTable::default(), BlockTable::default());
        assert!(table.grow_to(4, &mut pool));
        table.remember(scope, &text[..2], 1, &mut pool);
        other.begin_with(vec![0, 1], &mut pool);
        pool.set_limit(1);
        assert_eq!(pool.longest_prefix(scope, &text, 1).count(), 0);
        table.remember(scope, &text, 1, &mut pool);
        assert_eq!(
            pool.longest_prefix(scope, &text, 1).count(),
            0,
            "what follows a forgotten block is not remembered"
        );
        pool.check_owners([table.blocks(), other.blocks()].into_iter());
        assert_eq!((pool.used(), pool.bound()), (4, 4));
        table.release(&mut pool);
        assert_eq!((pool.used(), pool.bound()), (2, 2), "one still holds two");
        other.release(&mut pool);
        assert_eq!((pool.used(), pool.free(), pool.bound()), (0, 1, 1));
        pool.check_owners(std::iter::empty());
    }

    #[test]
    fn more_blocks_come_after_those_that_are_free() {
        let mut pool = BlockPool::new(5);
        let mut held = Vec::new();
        assert!(pool.allocate(4, &mut held));
        pool.set_limit(2);
        pool.release([0, 1, 2].into_iter());
        pool.set_limit(5);
        let mut blocks = Vec::new();
        assert!(pool.allocate(4, &mut blocks));
        assert_eq!(blocks, [0, 1, 2, 4], "3 is still held");
        pool.check_owners([[3].as_slice(), &blocks].into_iter());
    }
}

//! A pool of threads for loops.
//!
//! Chunks are claimed one by one, so which thread runs a chunk varies; results must not depend on it.

use std::any::Any;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// How often a thread looks again before it sleeps: some tens of microseconds, the usual gap between two ops.
const SPINS: u32 = 1000;

/// Threads that wait for loops. The caller of a loop works too, so `threads` means the caller and `threads - 1` others.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts loops, so that a spinning worker sees a new one without a lock.
    generation: AtomicU64,
    /// The newest loop.
    newest: Mutex<Option<Arc<Loop>>>,
    wake: Condvar,
    stop: AtomicBool,
}

struct Loop {
    /// The body, its lifetime erased. Called only for a claimed chunk, and `parallel_for` does not return before
    /// every chunk is done.
    body: *const (dyn Fn(usize) + Sync),
    chunks: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

// SAFETY: the body is `Sync`, and it outlives every call (see `Loop::body`).
unsafe impl Send for Loop {}
// SAFETY: as above.
unsafe impl Sync for Loop {}

impl Pool {
    /// Starts `threads - 1` threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            newest: Mutex::new(None),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        // Dropped on an error, which stops the threads that did start.
        let mut pool = Self {
            shared,
            workers: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let name = format!("odmoe-cpu-{index}");
            pool.workers.push(
                thread::Builder::new()
                    .name(name)
                    .spawn(move || shared.work())?,
            );
        }
        Ok(pool)
    }

    /// Threads in all, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body(0)` to `body(chunks - 1)`, in any order, on any thread. A panic of the body is passed on when all
    /// chunks have ended.
    pub fn parallel_for(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || chunks < 2 {
            (0..chunks).for_each(body);
            return;
        }
        // SAFETY: only the lifetime changes; this function does not return before the last call has ended.
        let body = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(body)
        };
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = Arc::new(Loop {
            body,
            chunks,
            next,
            done,
            panic: Mutex::new(None),
            caller: thread::current(),
        });
        self.shared.publish(Some(Arc::clone(&work)));
        work.run();
        work.wait();
        let panic = lock(&work.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.publish(None);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of bodies and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn publish(&self, work: Option<Arc<Loop>>) {
        {
            // Counted under the lock, under which a sleeper looks before it sleeps: none misses it.
            let mut newest = lock(&self.newest);
            *newest = work;
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.wake.notify_all();
    }

    fn work(&self) {
        let mut seen = 0;
        loop {
            seen = self.await_generation(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let work = lock(&self.newest).clone();
            if let Some(work) = work {
                work.run();
            }
        }
    }

    /// Returns when the generation is not `seen`: after some spinning, asleep.
    fn await_generation(&self, seen: u64) -> u64 {
        for _ in 0..SPINS {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return generation;
            }
            spin_loop();
        }
        let mut newest = lock(&self.newest);
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return generation;
            }
            newest = self
                .wake
                .wait(newest)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Loop {
    /// Runs chunks until none is left to claim.
    fn run(&self) {
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.chunks {
                return;
            }
            // SAFETY: this chunk is claimed and not done, so `parallel_for` still holds the body.
            let body = unsafe { &*self.body };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(chunk))) {
                lock(&self.panic).get_or_insert(panic);
            }
            if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.chunks {
                self.caller.unpark();
            }
        }
    }

    /// Returns when every chunk is done.
    fn wait(&self) {
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < self.chunks {
            spins += 1;
            if spins < SPINS {
                spin_loop()
            } else {
                thread::park()
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in 1..=4 {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for chunks in [0, 1, 2, 3, 17, 500] {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.parallel_for(chunks, &|chunk| {
                    counts[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {chunks}"
                );
            }
        }
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        let ended = AtomicUsize::new(0);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            pool.parallel_for(20, &|chunk| {
                ended.fetch_add(1, Ordering::Relaxed);
                assert_ne!(chunk, 7, "chunk seven");
            });
        }));
        let text = failed.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("chunk seven"), "{text}");
        assert_eq!(ended.load(Ordering::Relaxed), 20);
        pool.parallel_for(2, &|_| {});
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(5));
            let ran = AtomicUsize::new(0);
            pool.parallel_for(4, &|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 4);
        }
    }
}

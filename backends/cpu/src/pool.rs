//! A pool of threads for loops.
//!
//! Chunks are claimed one by one in ascending order, so that threads stream memory that lies together; which thread
//! runs a chunk varies, and results must not depend on it.
//!
//! A loop costs no allocation and no lock. All that threads share is the number of chunks that are left to claim: a
//! worker that comes late finds none and has touched nothing else.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps: longer than what a step does between two loops beside its
/// kernels, and than it takes to wake a thread.
const SPIN: Duration = Duration::from_micros(200);
/// From when on it offers the core between looks to whoever wants it, such as a reader that has bytes to verify.
const YIELD: Duration = Duration::from_micros(20);
/// Looks between two readings of the clock.
const LOOKS: usize = 16;

/// Threads that wait for loops. The caller of a loop works too, so `threads` means the caller and `threads - 1` others.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// Who is told of a loop. Telling a sleeper costs its caller some ten microseconds, one that looks for work nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Everybody who is needed.
    Sleepers,
    /// Those who look for work anyway.
    Nobody,
}

/// Alone in its cache lines: two, since they are fetched in pairs.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// Chunks of the running loop that are left to claim. Chunk `chunks - left` is claimed by taking one off.
    left: Line<AtomicUsize>,
    /// Chunks of the running loop that have ended.
    done: Line<AtomicUsize>,
    /// The running loop. Written by the one that holds `taken` while nothing is left to claim and every claimed chunk
    /// has ended; read only with a claimed chunk that has not.
    running: UnsafeCell<Loop>,
    /// Whether a loop is running.
    taken: AtomicBool,
    /// Whether the caller of the running loop sleeps until its last chunk ends, and by what it wakes.
    caller_sleeps: AtomicBool,
    ended: (Mutex<()>, Condvar),
    /// For each worker whether it sleeps. Who turns this to false wakes it.
    sleeping: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Loop {
    body: *const (dyn Fn(usize) + Sync),
    chunks: usize,
}

// SAFETY: `running` is accessed as its comment says: the release of `left` and `done` and their acquisition order every
// read of it after the write before and before the write after. The body is `Sync`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Pool {
    /// Starts `threads - 1` threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            left: Line(AtomicUsize::new(0)),
            done: Line(AtomicUsize::new(0)),
            running: UnsafeCell::new(Loop {
                body: &|_| (),
                chunks: 0,
            }),
            taken: AtomicBool::new(false),
            caller_sleeps: AtomicBool::new(false),
            ended: (Mutex::new(()), Condvar::new()),
            sleeping: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // Dropped on an error, which stops the threads that did start.
        let mut pool = Self {
            shared,
            workers: Vec::new(),
        };
        for index in 0..threads.saturating_sub(1) {
            let shared = Arc::clone(&pool.shared);
            let name = format!("odmoe-cpu-{}", index + 1);
            let worker = thread::Builder::new().name(name);
            pool.workers.push(worker.spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    /// Threads in all, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body(0)` to `body(chunks - 1)`, in any order, on any thread. A panic of the body is passed on when all
    /// chunks have ended. A loop within a loop, or beside one, runs on its caller's thread alone.
    pub fn parallel_for(&self, chunks: usize, wake: Wake, body: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let alone = chunks < 2 || (wake == Wake::Nobody && self.all_sleep());
        if alone || self.workers.is_empty() || shared.taken.swap(true, Ordering::Acquire) {
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
        // SAFETY: the loop before is over (its caller saw every chunk end), and this caller holds `taken`.
        unsafe {
            *shared.running.get() = Loop { body, chunks };
        }
        shared.done.0.store(0, Ordering::Relaxed);
        shared.left.0.store(chunks, Ordering::Release);
        if wake == Wake::Sleepers {
            self.wake(chunks - 1);
        }
        shared.run_chunks();
        shared.await_end(chunks);
        let panic = lock(&shared.panic).take();
        shared.taken.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn all_sleep(&self) -> bool {
        let mut sleeping = self.shared.sleeping.iter();
        sleeping.all(|sleeping| sleeping.load(Ordering::Relaxed))
    }

    /// Wakes up to `wanted` sleepers.
    fn wake(&self, wanted: usize) {
        // Pairs with the fence of `Shared::sleep`: a worker that did not see the chunks is seen to sleep here.
        fence(Ordering::SeqCst);
        let sleepers = self.shared.sleeping.iter().zip(&self.workers);
        for (sleeping, worker) in sleepers.take(wanted) {
            if sleeping.load(Ordering::Relaxed) && sleeping.swap(false, Ordering::Relaxed) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake(usize::MAX);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of bodies and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let has_news =
            || self.left.0.load(Ordering::Relaxed) > 0 || self.stop.load(Ordering::Relaxed);
        loop {
            if !spin_until(has_news) {
                self.sleep(&self.sleeping[index], has_news);
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.run_chunks();
        }
    }

    /// Returns when woken; at once where there are news that nobody who looked for sleepers told this thread.
    fn sleep(&self, sleeping: &AtomicBool, has_news: impl Fn() -> bool) {
        sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence of `Pool::wake`.
        fence(Ordering::SeqCst);
        while !has_news() && sleeping.load(Ordering::Relaxed) {
            thread::park();
        }
        sleeping.store(false, Ordering::Relaxed);
    }

    /// Claims chunks and runs them until none is left.
    fn run_chunks(&self) {
        let claim = || {
            let one_less = |left: usize| left.checked_sub(1);
            let order = (Ordering::Acquire, Ordering::Relaxed);
            self.left.0.fetch_update(order.0, order.1, one_less)
        };
        while let Ok(left) = claim() {
            // SAFETY: a chunk of this loop is claimed and has not ended, so nobody writes it.
            let running = unsafe { &*self.running.get() };
            // SAFETY: for the same reason `parallel_for` still holds the body.
            let body = unsafe { &*running.body };
            let chunks = running.chunks;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(chunks - left))) {
                lock(&self.panic).get_or_insert(panic);
            }
            // From here on the loop may be over.
            if self.done.0.fetch_add(1, Ordering::AcqRel) + 1 == chunks {
                self.wake_caller();
            }
        }
    }

    /// Returns when every chunk has ended.
    fn await_end(&self, chunks: usize) {
        let has_ended = || self.done.0.load(Ordering::Acquire) == chunks;
        if spin_until(has_ended) {
            return;
        }
        let mut guard = lock(&self.ended.0);
        self.caller_sleeps.store(true, Ordering::Relaxed);
        // Pairs with the fence of `wake_caller`.
        fence(Ordering::SeqCst);
        while !has_ended() {
            guard = self
                .ended
                .1
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::Relaxed);
    }

    fn wake_caller(&self) {
        // Pairs with the fence of `await_end`: a caller that did not see the end is seen to sleep here.
        fence(Ordering::SeqCst);
        if self.caller_sleeps.load(Ordering::Relaxed) {
            // It holds the lock from before it says that it sleeps until it does.
            drop(lock(&self.ended.0));
            self.ended.1.notify_one();
        }
    }
}

/// Looks for a while; returns whether it came true.
fn spin_until(is_true: impl Fn() -> bool) -> bool {
    let mut started = None;
    loop {
        for _ in 0..LOOKS {
            if is_true() {
                return true;
            }
            spin_loop();
        }
        let elapsed = started.get_or_insert_with(Instant::now).elapsed();
        if elapsed > SPIN {
            return false;
        }
        if elapsed > YIELD {
            thread::yield_now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "pool/tests.rs"]
mod tests;

use super::*;

fn counts(chunks: usize) -> Vec<AtomicUsize> {
    (0..chunks).map(|_| AtomicUsize::new(0)).collect()
}

fn all_are(counts: &[AtomicUsize], expected: usize) -> bool {
    let mut counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
    counts.all(|count| count == expected)
}

#[test]
fn every_chunk_runs_once() {
    for threads in 1..=4 {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for chunks in [0, 1, 2, 3, 17, 500] {
            let counts = counts(chunks);
            pool.parallel_for(chunks, Wake::Sleepers, &|chunk| {
                counts[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(all_are(&counts, 1), "{threads} threads, {chunks}");
        }
    }
}

/// Loops follow one another so closely that workers come late: they find chunks of the next loop, or none.
#[test]
fn workers_that_come_late_find_the_loop_of_now() {
    let pool = Pool::new(4).unwrap();
    for round in 0..20_000 {
        let counts = counts(2 + round % 5);
        pool.parallel_for(counts.len(), Wake::Sleepers, &|chunk| {
            counts[chunk].fetch_add(1, Ordering::Relaxed);
        });
        assert!(all_are(&counts, 1), "round {round}");
    }
}

/// Two chunks that wait for each other end only where two threads run them, asleep before or not.
#[test]
fn a_loop_gets_its_threads_whether_they_sleep_or_not() {
    let pool = Pool::new(2).unwrap();
    for round in 0..40 {
        if round % 2 == 0 {
            thread::sleep(4 * SPIN);
        }
        let met = std::sync::Barrier::new(2);
        pool.parallel_for(2, Wake::Sleepers, &|_| {
            met.wait();
        });
    }
}

/// The caller runs one chunk and then waits for the other for longer than it spins.
#[test]
fn a_caller_that_sleeps_is_woken_at_the_end() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..10 {
        let met = std::sync::Barrier::new(2);
        let caller = thread::current().id();
        let ended = AtomicUsize::new(0);
        pool.parallel_for(2, Wake::Sleepers, &|_| {
            met.wait();
            if thread::current().id() != caller {
                thread::sleep(10 * SPIN);
            }
            ended.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ended.load(Ordering::Relaxed), 2);
    }
}

#[test]
fn a_panic_comes_out_and_the_pool_goes_on() {
    let pool = Pool::new(3).unwrap();
    let ended = AtomicUsize::new(0);
    let failed = catch_unwind(AssertUnwindSafe(|| {
        pool.parallel_for(20, Wake::Sleepers, &|chunk| {
            ended.fetch_add(1, Ordering::Relaxed);
            assert_ne!(chunk, 7, "chunk seven");
        });
    }));
    let text = failed.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("chunk seven"), "{text}");
    assert_eq!(ended.load(Ordering::Relaxed), 20);
    pool.parallel_for(2, Wake::Sleepers, &|_| {});
}

#[test]
fn loops_within_and_beside_a_loop_run_too() {
    let pool = Pool::new(3).unwrap();
    let counts = counts(4 * 5);
    let run = |_| {
        for _ in 0..200 {
            pool.parallel_for(4, Wake::Sleepers, &|outer| {
                pool.parallel_for(5, Wake::Sleepers, &|inner| {
                    counts[outer * 5 + inner].fetch_add(1, Ordering::Relaxed);
                });
            });
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| run(()));
        run(());
    });
    assert!(all_are(&counts, 400));
}

/// Where all sleep its caller runs it; where some are awake they may share it.
#[test]
fn a_small_loop_wakes_nobody_and_runs() {
    let pool = Pool::new(3).unwrap();
    while !pool.all_sleep() {
        thread::sleep(SPIN);
    }
    let (caller, others) = (thread::current().id(), AtomicUsize::new(0));
    let counts = counts(50);
    pool.parallel_for(50, Wake::Nobody, &|chunk| {
        counts[chunk].fetch_add(1, Ordering::Relaxed);
        others.fetch_add(
            usize::from(thread::current().id() != caller),
            Ordering::Relaxed,
        );
    });
    assert!(all_are(&counts, 1) && pool.all_sleep());
    assert_eq!(others.load(Ordering::Relaxed), 0);
    pool.parallel_for(50, Wake::Sleepers, &|chunk| {
        counts[chunk].fetch_add(1, Ordering::Relaxed);
    });
    for _ in 0..100 {
        pool.parallel_for(50, Wake::Nobody, &|chunk| {
            counts[chunk].fetch_add(1, Ordering::Relaxed);
        });
    }
    assert!(all_are(&counts, 102));
}

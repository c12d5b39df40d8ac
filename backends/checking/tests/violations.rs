//! Each kind of wrong order is refused, and the right order is not.

use odmoe_backend::*;
use odmoe_backend_checking::{CheckingBackend, CheckingConfig, Completion};
use odmoe_backend_cpu::{CpuBackend, CpuConfig};
use odmoe_formats::{BlockFormat, WeightLayout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const COMPUTE: StreamId = StreamId::COMPUTE;
const COPY: StreamId = StreamId::COPY;

fn checking(config: CheckingConfig) -> CheckingBackend {
    let inner = CpuBackend::new(CpuConfig {
        threads: 1,
        kernels: None,
    })
    .unwrap();
    CheckingBackend::new(Arc::new(inner), config)
}

fn by_advance() -> CheckingBackend {
    checking(CheckingConfig {
        completion: Completion::ByAdvance,
        ..CheckingConfig::default()
    })
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// into[0..elements] += x.
fn add(x: &Buffer, into: &Buffer, elements: usize) -> Op {
    Op::AddInPlace {
        x: x.clone(),
        into: into.clone(),
        elements,
    }
}

fn put(backend: &CheckingBackend, values: &[f32]) -> Buffer {
    let buffer = backend.allocate(values.len() * 4).unwrap();
    backend
        .upload(COMPUTE, &floats(values), &buffer, 0)
        .unwrap();
    buffer
}

#[track_caller]
fn assert_refused<T>(result: Result<T, BackendError>, part: &str) {
    match result {
        Err(BackendError::Ordering(text)) => {
            assert!(text.contains(part), "{text:?} does not say {part:?}")
        }
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was not refused; it should say {part:?}"),
    }
}

/// The host learns that all enqueued so far is done.
fn finish(backend: &CheckingBackend) {
    for stream in [COMPUTE, COPY] {
        let event = backend.record(stream).unwrap();
        backend.advance(usize::MAX).unwrap();
        assert!(backend.is_done(event).unwrap());
    }
}

#[test]
fn the_right_order_passes_and_gives_the_right_result() {
    for seed in 0..50 {
        for unified_memory in [true, false] {
            let backend = checking(CheckingConfig {
                seed,
                unified_memory,
                ..CheckingConfig::default()
            });
            let (x, into) = (backend.allocate(8).unwrap(), backend.allocate(8).unwrap());
            backend.upload(COPY, &floats(&[1.0, 2.0]), &x, 0).unwrap();
            backend
                .upload(COPY, &floats(&[10.0, 20.0]), &into, 0)
                .unwrap();
            let uploaded = backend.record(COPY).unwrap();
            backend.wait(COMPUTE, uploaded).unwrap();
            backend.enqueue(COMPUTE, add(&x, &into, 2)).unwrap();
            let mut ticket = backend.read_back(COMPUTE, &into, 0..8).unwrap();
            let mut polls = 0;
            let bytes = loop {
                polls += 1;
                if let Some(bytes) = backend.take(&mut ticket).unwrap() {
                    break bytes;
                }
                assert!(polls < 100, "seed {seed}: it never completes");
            };
            assert_eq!(bytes, floats(&[11.0, 22.0]), "seed {seed}");
            assert!(polls > 3, "seed {seed}: completed early");
        }
    }
}

#[test]
fn bytes_never_written_are_not_read() {
    let backend = by_advance();
    let (x, into) = (put(&backend, &[1.0, 2.0]), backend.allocate(8).unwrap());
    assert_refused(
        backend.enqueue(COMPUTE, add(&x, &into, 2)),
        "byte 0 was never written",
    );
    backend.upload(COMPUTE, &floats(&[5.0]), &into, 0).unwrap();
    assert_refused(
        backend.enqueue(COMPUTE, add(&x, &into, 2)),
        "byte 4 was never written",
    );
    assert_refused(
        backend.read_back(COMPUTE, &into, 4..8),
        "byte 4 was never written",
    );
    backend.enqueue(COMPUTE, add(&x, &into, 1)).unwrap();
    finish(&backend);
}

#[test]
fn only_the_rows_that_an_op_names_must_be_there() {
    let backend = by_advance();
    let (table, out) = (
        backend.allocate(3 * 8).unwrap(),
        backend.allocate(8).unwrap(),
    );
    backend
        .upload(COMPUTE, &floats(&[1.0, 2.0]), &table, 8)
        .unwrap();
    let table = Weight {
        buffer: table,
        offset_bytes: 0,
        format: BlockFormat::F32,
        layout: WeightLayout::RowMajor,
        rows: 3,
        columns: 2,
    };
    let embed = |id: u32| Op::Embed {
        table: table.clone(),
        ids: Arc::new([id]),
        out: out.clone(),
    };
    assert_refused(
        backend.enqueue(COMPUTE, embed(2)),
        "byte 16 was never written",
    );
    backend.enqueue(COMPUTE, embed(1)).unwrap();
}

#[test]
fn streams_that_share_a_buffer_need_an_event() {
    let backend = by_advance();
    let (x, into) = (put(&backend, &[1.0]), put(&backend, &[2.0]));
    finish(&backend);
    backend.enqueue(COMPUTE, add(&x, &into, 1)).unwrap();
    let three = floats(&[3.0]);
    assert_refused(
        backend.upload(COPY, &three, &x, 0),
        "add_in_place of another stream reads there",
    );
    assert_refused(
        backend.upload(COPY, &three, &into, 0),
        "add_in_place of another stream writes there",
    );
    // That the work happens to be done does not help as long as the host has not asked.
    let event = backend.record(COMPUTE).unwrap();
    backend.advance(usize::MAX).unwrap();
    assert_refused(
        backend.upload(COPY, &three, &x, 0),
        "record an event after it and wait for it",
    );
    assert!(backend.is_done(event).unwrap());
    backend.upload(COPY, &three, &x, 0).unwrap();
    assert_refused(
        backend.enqueue(COMPUTE, add(&x, &into, 1)),
        "upload of another stream writes there",
    );
    let event = backend.record(COPY).unwrap();
    backend.wait(COMPUTE, event).unwrap();
    backend.enqueue(COMPUTE, add(&x, &into, 1)).unwrap();
}

#[test]
fn streams_may_read_one_buffer_and_write_different_parts() {
    let backend = by_advance();
    let (x, into) = (put(&backend, &[1.0]), put(&backend, &[2.0, 3.0]));
    let event = backend.record(COMPUTE).unwrap();
    backend.wait(COPY, event).unwrap();
    backend.enqueue(COMPUTE, add(&x, &into, 1)).unwrap();
    backend.read_back(COPY, &x, 0..4).unwrap();
    backend.upload(COPY, &floats(&[4.0]), &into, 4).unwrap();
}

#[test]
fn an_op_does_not_start_over_an_open_window() {
    let backend = by_advance();
    let (x, into) = (put(&backend, &[1.0]), put(&backend, &[2.0]));
    finish(&backend);
    let mut window = backend.host_window(&x).unwrap();
    assert_refused(
        backend.enqueue(COMPUTE, add(&x, &into, 1)),
        "a host window is open",
    );
    window.bytes_mut().copy_from_slice(&floats(&[7.0]));
    drop(window);
    backend.enqueue(COMPUTE, add(&x, &into, 1)).unwrap();
    let mut ticket = backend.read_back(COMPUTE, &into, 0..4).unwrap();
    backend.advance(usize::MAX).unwrap();
    assert_eq!(backend.take(&mut ticket).unwrap(), Some(floats(&[9.0])));
}

#[test]
#[should_panic(expected = "add_in_place is not known to be done")]
fn a_window_does_not_open_over_a_pending_op() {
    let backend = by_advance();
    let (x, into) = (put(&backend, &[1.0]), put(&backend, &[2.0]));
    finish(&backend);
    backend.enqueue(COMPUTE, add(&x, &into, 1)).unwrap();
    backend.advance(usize::MAX).unwrap();
    backend.host_window(&x);
}

#[test]
#[should_panic(expected = "is already open")]
fn a_second_window_does_not_open() {
    let backend = by_advance();
    let x = backend.allocate(4).unwrap();
    let _first = backend.host_window(&x).unwrap();
    backend.host_window(&x);
}

#[test]
fn a_window_that_nobody_wrote_leaves_nothing_to_read() {
    let backend = by_advance();
    let x = put(&backend, &[1.0]);
    finish(&backend);
    drop(backend.host_window(&x).unwrap());
    assert_refused(backend.read_back(COMPUTE, &x, 0..4), "never written");
}

#[test]
fn device_memory_has_no_windows() {
    let backend = checking(CheckingConfig {
        unified_memory: false,
        ..CheckingConfig::default()
    });
    assert!(!backend.capabilities().unified_memory);
    assert!(backend.host_window(&backend.allocate(4).unwrap()).is_none());
}

#[test]
fn a_slot_carved_again_holds_nothing() {
    let backend = by_advance();
    let extent = backend.allocate_extent(1 << 16).unwrap();
    let slot = backend.carve(&extent, 0..16);
    backend.upload(COMPUTE, &[1; 16], &slot, 0).unwrap();
    finish(&backend);
    drop(slot);
    let slot = backend.carve(&extent, 0..16);
    assert_refused(
        backend.read_back(COMPUTE, &slot, 0..16),
        "byte 0 was never written",
    );
}

#[test]
fn attention_reads_only_what_was_appended() {
    let backend = by_advance();
    let spec = KvSpec {
        layers: 1,
        kv_heads: 1,
        head_dim: 2,
        block_tokens: 2,
        blocks: 4,
        format: KvFormat::F16,
    };
    let cache = backend.allocate_kv(spec).unwrap();
    let rows = put(&backend, &[1.0; 6]);
    let out = backend.allocate(8).unwrap();
    let place = |block, offset| KvPosition { block, offset };
    let append = |positions: &[KvPosition]| Op::KvAppend {
        cache: cache.clone(),
        layer: 0,
        k: rows.clone(),
        v: rows.clone(),
        positions: positions.into(),
    };
    let attend = |first_position| Op::PagedAttention {
        q: rows.clone(),
        cache: cache.clone(),
        layer: 0,
        spans: Arc::new([AttentionSpan {
            first_row: 0,
            rows: 1,
            first_position,
            blocks: Arc::new([3, 1]),
        }]),
        query_heads: 1,
        scale: 1.0,
        out: out.clone(),
    };
    backend
        .enqueue(COMPUTE, append(&[place(3, 0), place(1, 0)]))
        .unwrap();
    backend.enqueue(COMPUTE, attend(0)).unwrap();
    assert_refused(
        backend.enqueue(COMPUTE, attend(2)),
        "block 3 offset 1 was never appended",
    );
    backend.enqueue(COMPUTE, append(&[place(3, 1)])).unwrap();
    backend.enqueue(COMPUTE, attend(2)).unwrap();
    assert_refused(
        backend.enqueue(COMPUTE, attend(3)),
        "block 1 offset 1 was never appended",
    );
    assert_refused(
        backend.enqueue(COPY, append(&[place(1, 0)])),
        "of another stream",
    );
}

#[test]
fn a_read_back_is_taken_once_and_events_must_exist() {
    let backend = by_advance();
    let x = put(&backend, &[1.0]);
    let mut ticket = backend.read_back(COMPUTE, &x, 0..4).unwrap();
    assert_eq!(backend.take(&mut ticket).unwrap(), None);
    backend.advance(usize::MAX).unwrap();
    assert_eq!(backend.take(&mut ticket).unwrap(), Some(floats(&[1.0])));
    assert_refused(backend.take(&mut ticket), "taken twice");
    assert_refused(backend.wait(COMPUTE, Event(99)), "never recorded");
    assert_refused(backend.is_done(Event(99)), "never recorded");
}

#[test]
fn the_waker_is_called_when_events_are_reached() {
    let backend = by_advance();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    backend.set_waker(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    put(&backend, &[1.0]);
    let event = backend.record(COMPUTE).unwrap();
    assert!(!backend.is_done(event).unwrap());
    assert_eq!(backend.advance(1).unwrap(), 1);
    assert_eq!(
        calls.load(Ordering::Relaxed),
        0,
        "the upload is not an event"
    );
    assert_eq!(backend.advance(5).unwrap(), 1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(backend.is_done(event).unwrap());
}

#[test]
fn fresh_memory_is_poison() {
    let inner = Arc::new(
        CpuBackend::new(CpuConfig {
            threads: 1,
            kernels: None,
        })
        .unwrap(),
    );
    let backend = CheckingBackend::new(inner, CheckingConfig::default());
    let mut window = backend.host_window(&backend.allocate(4).unwrap()).unwrap();
    let bytes: [u8; 4] = window.bytes_mut().try_into().unwrap();
    assert!(f32::from_le_bytes(bytes).is_nan());
}

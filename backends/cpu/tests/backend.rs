//! Memory, misuse and configuration of the backend.

use odmoe_backend::*;
use odmoe_backend_cpu::{CpuBackend, CpuBackendError, CpuConfig, KernelSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn backend() -> CpuBackend {
    CpuBackend::new(CpuConfig {
        threads: 2,
        kernels: None,
    })
    .unwrap()
}

fn bytes(backend: &CpuBackend, buffer: &Buffer) -> Vec<u8> {
    let mut ticket = backend
        .read_back(StreamId::COMPUTE, buffer, 0..buffer.bytes())
        .unwrap();
    backend.take(&mut ticket).unwrap().unwrap()
}

#[track_caller]
fn assert_panics(part: &str, body: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(body)).expect_err("it should panic");
    let text = panic.downcast_ref::<String>().cloned();
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap();
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[test]
fn memory_is_zeroed_aligned_and_as_long_as_asked_for() {
    let backend = backend();
    for length in [0, 1, 63, 4096, 300_000, 5_000_000] {
        let buffer = backend.allocate(length).unwrap();
        assert_eq!(buffer.bytes(), length);
        assert!(bytes(&backend, &buffer).iter().all(|&byte| byte == 0));
        let address = backend.host_window(&buffer).unwrap().bytes_mut().as_ptr() as usize;
        assert!(length == 0 || address.is_multiple_of(64));
    }
    for length in [1 << 14, 3 << 20] {
        let extent = backend.allocate_extent(length).unwrap();
        assert_eq!(extent.bytes(), length);
        let slot = backend.carve(&extent, 0..length);
        let address = backend.host_window(&slot).unwrap().bytes_mut().as_ptr() as usize;
        assert_eq!(address % (16 << 10), 0);
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error_that_names_the_flags() {
    let error = backend().allocate_extent(usize::MAX / 4).err().unwrap();
    assert!(error.to_string().contains("--expert-cache"), "{error}");
    assert!(backend().allocate(usize::MAX - 5).is_err());
}

#[test]
fn slots_do_not_overlap_while_they_live() {
    let backend = backend();
    let extent = backend.allocate_extent(100).unwrap();
    let first = backend.carve(&extent, 10..20);
    let second = backend.carve(&extent, 20..30);
    for range in [10..20, 0..11, 19..21, 12..15, 29..100, 0..100] {
        assert_panics("overlaps the live slot", || {
            drop(backend.carve(&extent, range))
        });
    }
    assert_panics("leaves its extent", || {
        drop(backend.carve(&extent, 90..101))
    });
    assert_panics("is empty", || drop(backend.carve(&extent, 40..40)));
    drop(first);
    let again = backend.carve(&extent, 0..20);
    drop(extent);
    backend.upload(StreamId::COPY, &[1; 20], &again, 0).unwrap();
    backend
        .upload(StreamId::COPY, &[2; 10], &second, 0)
        .unwrap();
    assert_eq!(bytes(&backend, &again), [1; 20]);
    assert_eq!(bytes(&backend, &second), [2; 10]);
}

#[test]
fn a_window_keeps_its_slot_and_keeps_others_out() {
    let backend = backend();
    let extent = backend.allocate_extent(64).unwrap();
    let slot = backend.carve(&extent, 0..64);
    let mut window = backend.host_window(&slot).unwrap();
    window.bytes_mut().fill(7);
    assert_panics("host window is open", || drop(backend.host_window(&slot)));
    assert_panics("host window is open", || {
        backend.upload(StreamId::COPY, &[1], &slot, 0).unwrap()
    });
    assert_panics("host window is open", || drop(bytes(&backend, &slot)));
    drop(slot);
    assert_panics("overlaps the live slot", || {
        drop(backend.carve(&extent, 0..64))
    });
    // The window may be written and dropped on another thread.
    std::thread::spawn(move || window.bytes_mut().fill(8))
        .join()
        .unwrap();
    let slot = backend.carve(&extent, 0..64);
    assert_eq!(bytes(&backend, &slot), [8; 64]);
}

#[test]
fn wrong_shapes_and_aliases_panic_and_leave_the_backend_usable() {
    let backend = backend();
    let buffer = backend.allocate(16).unwrap();
    let add = |x: &Buffer, elements| Op::AddInPlace {
        x: x.clone(),
        into: buffer.clone(),
        elements,
    };
    assert_panics("do not fit", || {
        backend
            .enqueue(StreamId::COMPUTE, add(&backend.allocate(8).unwrap(), 3))
            .unwrap()
    });
    assert_panics("in use", || {
        backend.enqueue(StreamId::COMPUTE, add(&buffer, 4)).unwrap()
    });
    assert_panics("upload of 9 bytes at 8", || {
        backend
            .upload(StreamId::COMPUTE, &[0; 9], &buffer, 8)
            .unwrap()
    });
    backend
        .enqueue(StreamId::COMPUTE, add(&backend.allocate(16).unwrap(), 4))
        .unwrap();
}

#[test]
fn two_expert_rows_never_come_out_at_one_place() {
    let backend = backend();
    let matrix = || Weight {
        buffer: backend.allocate(64).unwrap(),
        offset_bytes: 0,
        format: odmoe_formats::BlockFormat::F32,
        layout: odmoe_formats::WeightLayout::RowMajor,
        rows: 4,
        columns: 4,
    };
    let row = ExpertRow {
        token_row: 0,
        out_row: 1,
    };
    let group = || ExpertGroup {
        gate: matrix(),
        up: matrix(),
        down: matrix(),
        rows: vec![row].into(),
    };
    let (x, out) = (backend.allocate(16).unwrap(), backend.allocate(32).unwrap());
    let op = Op::ExpertFfn {
        x,
        groups: vec![group(), group()],
        out,
    };
    assert_panics("come out at row 1", || {
        backend.enqueue(StreamId::COMPUTE, op).unwrap()
    });
}

#[test]
fn configuration_errors_say_what_to_do() {
    let error = CpuBackend::new(CpuConfig {
        threads: 0,
        kernels: None,
    })
    .err()
    .unwrap();
    assert!(matches!(error, CpuBackendError::NoThreads), "{error}");
    for set in KernelSet::ALL {
        let made = CpuBackend::new(CpuConfig {
            threads: 1,
            kernels: Some(set),
        });
        match made {
            Ok(backend) => assert!(set.is_available() && backend.kernels() == set),
            Err(error) => assert!(
                !set.is_available() && error.to_string().contains("reference, portable"),
                "{error}"
            ),
        }
    }
}

#[test]
fn kernel_sets_have_names() {
    for set in KernelSet::ALL {
        assert_eq!(KernelSet::parse(&set.name().to_uppercase()), Ok(set));
    }
    let error = KernelSet::parse("sse").unwrap_err();
    assert!(error.to_string().contains("avx512"), "{error}");
    assert_eq!(KernelSet::available().last(), Some(&KernelSet::best()));
    let description = backend().capabilities().description;
    assert_eq!(description, format!("{}, 2 threads", KernelSet::best()));
}

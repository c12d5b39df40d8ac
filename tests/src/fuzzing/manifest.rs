//! The store's manifest.

use super::Outcome;
use odmoe_formats::manifest::Manifest;

/// Only parses and validates.
pub fn parse(bytes: &[u8]) {
    drop(Manifest::from_json(bytes));
}

/// Parses and validates `bytes`, and checks what is accepted.
pub fn check(bytes: &[u8]) -> Outcome {
    let manifest = match Manifest::from_json(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Outcome::refused(&error);
        }
    };
    manifest.validate().expect("it was accepted");
    let json = manifest.to_json();
    let again = Manifest::from_json(&json).unwrap_or_else(|e| panic!("its own JSON: {e}"));
    assert_eq!(again, manifest);
    assert_eq!(again.to_json(), json);
    check_ranges(&manifest);
    Outcome::Accepted
}

/// Every range lies in its file, and sums of sizes are those of numbers, not of what is left of them in 64 bits.
fn check_ranges(manifest: &Manifest) {
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.map(u128::from).sum::<u128>();
    let resident = sum(&mut manifest.resident.values().map(|tensor| tensor.bytes));
    let objects = sum(&mut manifest.objects.iter().map(|object| object.bytes));
    assert_eq!(u128::from(manifest.resident_bytes().0), resident);
    assert_eq!(u128::from(manifest.object_bytes().0), objects);
    let all = manifest.files.iter().map(|file| file.bytes);
    assert!(sum(&mut all.into_iter()) >= resident + objects);

    for (name, tensor) in &manifest.resident {
        let end = tensor.offset.checked_add(tensor.bytes).expect(name);
        assert!(end <= manifest.file(tensor.file).bytes, "{name}");
        assert_eq!(
            tensor.format.tensor_bytes(&tensor.shape),
            Some(tensor.bytes)
        );
    }
    for object in &manifest.objects {
        let end = object.offset.checked_add(object.bytes).expect("an end");
        assert!(end <= manifest.file(object.file).bytes, "{}", object.key);
        for (role, tensor) in &object.tensors {
            let end = tensor.offset.checked_add(tensor.bytes).expect(role);
            assert!(end <= object.bytes, "{} {role}", object.key);
        }
    }
}

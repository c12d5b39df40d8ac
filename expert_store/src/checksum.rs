//! Stand-in until `odmoe_formats::checksum` is here.
pub(crate) fn hex(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

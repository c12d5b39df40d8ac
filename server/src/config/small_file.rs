//! Files that somebody wrote by hand: read whole, and refused where they are longer than any such file.

use std::io::Read;
use std::path::Path;

/// The bytes of a file of at most `most_bytes`, or why there are none.
pub(crate) fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = file.take(most_bytes + 1).read_to_end(&mut bytes);
    let read = read.map_err(|error| error.to_string())?;
    if read as u64 > most_bytes {
        return Err(format!("more than {most_bytes} bytes"));
    }
    Ok(bytes)
}

/// As [`read`], for text.
pub(crate) fn read_text(path: &Path, most_bytes: u64) -> Result<String, String> {
    String::from_utf8(read(path, most_bytes)?).map_err(|error| format!("no UTF-8: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_or_no_text_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"four").expect("a writable folder");
        assert_eq!(read_text(&path, 4).as_deref(), Ok("four"));
        assert_eq!(read(&path, 3), Err("more than 3 bytes".to_owned()));
        std::fs::write(&path, [0xff]).expect("a writable folder");
        assert!(read_text(&path, 4).is_err_and(|reason| reason.contains("UTF-8")));
        assert_eq!(read(&path, 4), Ok(vec![0xff]));
        assert!(read(folder.path(), 4).is_err(), "a folder");
    }
}

//! Where converted and unpacked models are kept between runs.

use std::ffi::OsString;
use std::path::PathBuf;

/// `$XDG_CACHE_HOME/odmoe`, else `~/.cache/odmoe` (`~/Library/Caches/odmoe` on macOS). None without a home. Relative
/// folders are ignored, as the XDG specification asks.
pub fn cache_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let below_home = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(below_home)))?;
    Some(folder.join("odmoe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_then_home_then_nowhere() {
        let with = |pairs: &'static [(&'static str, &'static str)]| {
            cache_folder(&|name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| v.into())
            })
        };
        assert_eq!(
            with(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]),
            Some("/c/odmoe".into())
        );
        let home = with(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]).unwrap();
        assert!(home.starts_with("/h") && home.ends_with("odmoe"));
        assert_eq!(with(&[("HOME", "")]), None);
    }
}

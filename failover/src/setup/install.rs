//! Copies the running program, so that a container of another image can run it from a shared volume.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Copies the running program into `directory`; gives the copy's path. One that is there is replaced in one step.
///
/// # Errors
/// The program can't be read, or the directory can't be written to.
pub fn install(directory: &Path) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("can't find the running program")?;
    let name = own.file_name().context("the running program has no name")?;
    let to = directory.join(name);
    let mut draft_name = name.to_owned();
    draft_name.push(".new");
    let draft = directory.join(draft_name);
    fs::copy(&own, &draft).with_context(|| format!("can't copy {} to {}", own.display(), draft.display()))?;
    fs::set_permissions(&draft, Permissions::from_mode(0o755))
        .with_context(|| format!("can't make {} executable", draft.display()))?;
    fs::rename(&draft, &to).with_context(|| format!("can't rename {} to {}", draft.display(), to.display()))?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_executable_and_replaces_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let older = dir.path().join(own.file_name().unwrap());
        fs::write(&older, "older").unwrap();
        let to = install(dir.path()).unwrap();
        assert_eq!(to, older);
        assert_eq!(fs::metadata(&to).unwrap().len(), fs::metadata(&own).unwrap().len());
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = install(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/at/all"), "{error:#}");
    }
}

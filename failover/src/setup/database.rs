//! A server's first data directory.
//!
//! Promises: it is there whole, with its accounts, or not at all, whenever this is interrupted; one that is there is never touched; passwords
//! reach the server by its standard input, never by arguments. Made without a binlog, so that servers made alike have no GTIDs of their own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::accounts::{Account, statements};

/// Stands for the directory in commands.
const DIRECTORY: &str = "{data_dir}";

/// The file of `--config`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatabaseFile {
    /// Where the data directory is to be; its parent is there.
    data_dir: PathBuf,
    /// Program and arguments that make the system tables in `{data_dir}`.
    install: Vec<String>,
    /// Program and arguments that run statements from standard input on `{data_dir}`.
    bootstrap: Vec<String>,
    /// Databases to be made.
    #[serde(default)]
    databases: Vec<String>,
    #[serde(default)]
    accounts: Vec<Account>,
}

/// Makes what the file says, unless it is there; says whether it was made.
///
/// # Errors
/// The file, a password file or a program can't be used; a program failed; the directory holds something else.
pub fn init(config: &Path) -> anyhow::Result<bool> {
    let text = fs::read_to_string(config).with_context(|| format!("--config = {}", config.display()))?;
    let file: DatabaseFile = toml::from_str(&text)
        .map_err(|e| anyhow::anyhow!("--config = {}: {}", config.display(), e.message().to_owned()))?;
    let data = &file.data_dir;
    if data.join("mysql").is_dir() {
        return Ok(false);
    }
    let name = data.file_name().with_context(|| format!("data_dir = {}: a directory is wanted", data.display()))?;
    if fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("data_dir = {}: holds files, but no data directory: empty it, or name another", data.display());
    }
    let sql = statements(&file.databases, &file.accounts)?;
    let mut draft_name = name.to_owned();
    draft_name.push(".draft");
    let draft = data.with_file_name(draft_name);
    if draft.exists() {
        fs::remove_dir_all(&draft).with_context(|| format!("can't remove {}", draft.display()))?;
    }
    fs::create_dir_all(&draft).with_context(|| format!("can't create {}", draft.display()))?;
    run("install", &file.install, &draft, None)?;
    run("bootstrap", &file.bootstrap, &draft, Some(&sql))?;
    ensure!(draft.join("mysql").is_dir(), "install = {:?}: made no system tables in {}", file.install, draft.display());
    settle(&draft, data)?;
    Ok(true)
}

/// Puts the draft in its place, durably.
fn settle(draft: &Path, data: &Path) -> anyhow::Result<()> {
    let made = File::open(draft).with_context(|| format!("can't open {}", draft.display()))?;
    rustix::fs::syncfs(&made).with_context(|| format!("can't sync the file system of {}", draft.display()))?;
    fs::rename(draft, data).with_context(|| format!("can't rename {} to {}", draft.display(), data.display()))?;
    let parent = data.parent().unwrap_or(Path::new("/"));
    let parent = File::open(parent).with_context(|| format!("can't open {}", parent.display()))?;
    parent.sync_all().context("can't sync the directory above the data directory")
}

fn run(key: &str, command: &[String], data: &Path, input: Option<&str>) -> anyhow::Result<()> {
    let words: Vec<String> = command.iter().map(|word| word.replace(DIRECTORY, &data.display().to_string())).collect();
    let Some((program, args)) = words.split_first() else { bail!("{key}: a program is wanted") };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(args)
        .stdin(stdin)
        .spawn()
        .with_context(|| format!("{key} = {words:?}: can't start {program}"))?;
    let told = match (child.stdin.take(), input) {
        (Some(mut stdin), Some(text)) => stdin.write_all(text.as_bytes()),
        _ => Ok(()),
    };
    let status = child.wait().with_context(|| format!("{key}: {program} got lost"))?;
    // A program that fails may not have read to the end: how it ended says more.
    ensure!(status.success(), "{key} = {words:?}: ended with {status}; see what it said above");
    told.with_context(|| format!("{key}: {program} does not read its statements"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stand-ins for the server's programs: what counts here is the order and what is left behind.
    fn file(dir: &Path, install: &str, bootstrap: &str) -> PathBuf {
        let password = dir.join("password");
        fs::write(&password, "a-secret").unwrap();
        let config = dir.join("database.toml");
        let text = format!(
            "data_dir = {:?}\ninstall = [\"sh\", \"-c\", {install:?}]\nbootstrap = [\"sh\", \"-c\", {bootstrap:?}]\n\
             [[accounts]]\nname = \"root\"\nhost = \"localhost\"\npassword_file = {password:?}\ngrants = []\n",
            dir.join("data"),
        );
        fs::write(&config, text).unwrap();
        config
    }

    const INSTALL: &str = "mkdir {data_dir}/mysql";
    const BOOTSTRAP: &str = "cat > {data_dir}/statements";

    #[test]
    fn is_made_once_and_then_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = file(dir.path(), INSTALL, BOOTSTRAP);
        assert!(init(&config).unwrap());
        let statements = dir.path().join("data/statements");
        assert!(fs::read_to_string(&statements).unwrap().contains("IDENTIFIED BY 'a-secret'"));
        fs::remove_file(&statements).unwrap();
        assert!(!init(&config).unwrap());
        assert!(!statements.exists());
    }

    #[test]
    fn an_interrupted_attempt_leaves_no_data_directory_and_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let error = init(&file(dir.path(), INSTALL, "exit 3")).unwrap_err().to_string();
        assert!(error.contains("bootstrap") && error.contains("exit status: 3"), "{error}");
        assert!(!dir.path().join("data").exists());
        assert!(init(&file(dir.path(), INSTALL, BOOTSTRAP)).unwrap(), "although a draft was left");
        assert!(!dir.path().join("data.draft").exists());
    }

    #[test]
    fn an_empty_directory_is_taken_and_a_foreign_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = file(dir.path(), INSTALL, BOOTSTRAP);
        fs::create_dir(dir.path().join("data")).unwrap();
        assert!(init(&config).unwrap());
        fs::remove_dir_all(dir.path().join("data")).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/mine"), "").unwrap();
        assert!(init(&config).unwrap_err().to_string().contains("holds files"));
        assert!(dir.path().join("data/mine").exists());
    }

    #[test]
    fn a_program_that_makes_nothing_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let error = init(&file(dir.path(), "true", BOOTSTRAP)).unwrap_err().to_string();
        assert!(error.contains("no system tables"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("database.toml");
        fs::write(&config, "datadir = \"/x\"\n").unwrap();
        assert!(init(&config).unwrap_err().to_string().contains("datadir"));
    }
}

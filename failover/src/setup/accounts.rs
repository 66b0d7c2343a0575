//! Accounts of a new server, as statements. Pure but for reading password files.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// One of `[[accounts]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    /// Its name.
    name: String,
    /// Where it may come from; `%` for everywhere.
    host: String,
    /// Its password.
    password_file: PathBuf,
    /// What it may do: `ALL PRIVILEGES ON *.*`.
    grants: Vec<String>,
    /// Whether it may pass that on.
    #[serde(default)]
    grant_option: bool,
}

/// The statements for bootstrap mode, one a line: MariaDB 10.4 and later. Accounts without a password that the installation left go.
pub(super) fn statements(databases: &[String], accounts: &[Account]) -> anyhow::Result<String> {
    let mut lines = vec![
        "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost')".to_owned(),
        "FLUSH PRIVILEGES".to_owned(),
    ];
    for database in databases {
        lines.push(format!("CREATE DATABASE IF NOT EXISTS `{}`", database.replace('`', "``")));
    }
    for account in accounts {
        let file = &account.password_file;
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("password_file of {} = {}", account.name, file.display()))?;
        let password = text.strip_suffix('\n').unwrap_or(&text);
        ensure!(!password.is_empty(), "password_file of {} = {}: is empty", account.name, file.display());
        ensure!(
            !password.contains(['\n', '\r', '\0']),
            "password_file of {} = {}: has to be one line",
            account.name,
            file.display()
        );
        let who = format!("{}@{}", quoted(&account.name), quoted(&account.host));
        lines.push(format!("CREATE OR REPLACE USER {who} IDENTIFIED BY {}", quoted(password)));
        for grant in &account.grants {
            ensure!(!grant.contains([';', '\n', '\0']), "grants of {} = {grant:?}: has to be one grant", account.name);
            let option = if account.grant_option { " WITH GRANT OPTION" } else { "" };
            lines.push(format!("GRANT {grant} TO {who}{option}"));
        }
    }
    Ok(lines.into_iter().map(|line| line + ";\n").collect())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(password: &str, grants: &[&str]) -> (tempfile::NamedTempFile, Account) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), password).unwrap();
        let grants = grants.iter().map(|g| (*g).to_owned()).collect();
        let path = file.path().to_owned();
        (file, Account { name: "o'app".into(), host: "%".into(), password_file: path, grants, grant_option: true })
    }

    #[test]
    fn names_and_passwords_can_not_break_out_of_their_quotes() {
        let (_file, account) = account("a'; DROP \\ x\n", &["SELECT ON *.*"]);
        let sql = statements(&["a`b".to_owned()], &[account]).unwrap();
        assert!(sql.contains("CREATE DATABASE IF NOT EXISTS `a``b`;\n"));
        assert!(sql.contains(r"CREATE OR REPLACE USER 'o\'app'@'%' IDENTIFIED BY 'a\'; DROP \\ x';"), "{sql}");
        assert!(sql.ends_with("GRANT SELECT ON *.* TO 'o\\'app'@'%' WITH GRANT OPTION;\n"));
    }

    #[test]
    fn passwords_of_no_or_several_lines_are_refused_without_being_shown() {
        for password in ["", "\n", "secret\nline"] {
            let (_file, account) = account(password, &[]);
            let error = format!("{:#}", statements(&[], &[account]).unwrap_err());
            assert!(error.contains("password_file of o'app") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_grant_is_one_grant() {
        let (_file, account) = account("secret", &["SELECT ON *.*; DROP DATABASE x"]);
        assert!(statements(&[], &[account]).unwrap_err().to_string().contains("one grant"));
    }
}

//! Statements as values: what a client asks for, without knowing the answer.

use super::lexer::{Token, tokens};

/// A value that is asked for or assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expr {
    Text(String),
    Number(String),
    Null,
    UserVar(String),
    SystemVar(String),
    Call { name: String, args: Vec<Expr> },
}

/// A parsed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// Each expression with its column's name.
    Select(Vec<(String, Expr)>),
    /// Assignments to user variables; others of the same statement are accepted without effect.
    SetUser(Vec<(String, Expr)>),
    SetGlobal(String),
    ShowVariables(Option<String>),
    ShowStatus(Option<String>),
    ShowMasterStatus,
    ShowBinaryLogs,
    ShowReplicas,
    ShowReplicaStatus,
    ShowProcesslist,
    ShowEmpty(&'static str),
    Kill {
        query_only: bool,
        connection: u32,
    },
    /// Accepted, nothing to do.
    Nothing,
    /// Not for a replication source.
    Unsupported,
    Malformed(String),
}

/// Parses one statement.
pub(super) fn parse(sql: &str) -> Statement {
    let tokens = match tokens(sql) {
        Ok(t) => t,
        Err(what) => return Statement::Malformed(format!("{what} does not end")),
    };
    let mut p = Parser { tokens, at: 0, depth: 0 };
    let Some(first) = p.next() else { return Statement::Malformed("the statement is empty".into()) };
    let Token::Word(word) = first else { return Statement::Unsupported };
    match word.to_ascii_uppercase().as_str() {
        "SELECT" => p.select(),
        "SET" => p.set(),
        "SHOW" => p.show(),
        "KILL" => p.kill(),
        "USE" | "BEGIN" | "START" | "COMMIT" | "ROLLBACK" | "DO" => Statement::Nothing,
        _ => Statement::Unsupported,
    }
}

/// Calls within calls, at most: a statement must not be able to exhaust the stack.
const MAX_DEPTH: u32 = 16;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: u32,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|t| t.is(word));
        self.at += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: char) -> bool {
        let found = self.peek().is_some_and(|t| t.is_symbol(symbol));
        self.at += usize::from(found);
        found
    }

    fn rest_is(&self, words: &[&str]) -> bool {
        let rest = &self.tokens[self.at.min(self.tokens.len())..];
        rest.len() >= words.len() && rest.iter().zip(words).all(|(t, w)| t.is(w))
    }

    fn expr(&mut self) -> Option<(String, Expr)> {
        match self.next()? {
            Token::Text(t) => Some((t.clone(), Expr::Text(t))),
            Token::Number(n) => Some((n.clone(), Expr::Number(n))),
            Token::Symbol('-') => match self.next()? {
                Token::Number(n) => Some((format!("-{n}"), Expr::Number(format!("-{n}")))),
                _ => None,
            },
            Token::UserVar(v) => Some((format!("@{v}"), Expr::UserVar(v))),
            Token::SystemVar { name, text } => Some((text, Expr::SystemVar(name))),
            Token::Word(w) if w.eq_ignore_ascii_case("null") => Some(("NULL".into(), Expr::Null)),
            Token::Word(w) => {
                let mut args = Vec::new();
                if !self.take_symbol('(') {
                    // CURRENT_USER and bare words such as ON, OFF, utf8mb4.
                    return Some((w.clone(), Expr::Text(w)));
                }
                let mut shown = Vec::new();
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return None;
                }
                while !self.take_symbol(')') {
                    let (text, arg) = self.expr()?;
                    shown.push(if matches!(arg, Expr::Text(_)) { format!("'{text}'") } else { text });
                    args.push(arg);
                    self.take_symbol(',');
                }
                self.depth -= 1;
                Some((format!("{w}({})", shown.join(",")), Expr::Call { name: w.to_ascii_uppercase(), args }))
            }
            Token::Symbol(_) => None,
        }
    }

    fn select(&mut self) -> Statement {
        let mut columns = Vec::new();
        loop {
            let Some((mut name, mut expr)) = self.expr() else { return Statement::Unsupported };
            if matches!(expr, Expr::Text(ref w) if w.eq_ignore_ascii_case("current_user")) {
                expr = Expr::Call { name: "CURRENT_USER".into(), args: vec![] };
            }
            if self.take("AS") {
                match self.next() {
                    Some(Token::Word(alias) | Token::Text(alias)) => name = alias,
                    _ => return Statement::Malformed("a column's name is missing after AS".into()),
                }
            }
            columns.push((name, expr));
            if !self.take_symbol(',') {
                break;
            }
        }
        if self.peek().is_none() || self.rest_is(&["LIMIT"]) || self.rest_is(&["FROM", "DUAL"]) {
            return Statement::Select(columns);
        }
        Statement::Unsupported
    }

    fn set(&mut self) -> Statement {
        let mut user = Vec::new();
        if self.rest_is(&["NAMES"]) || self.rest_is(&["CHARACTER"]) || self.rest_is(&["TRANSACTION"]) {
            return Statement::Nothing;
        }
        loop {
            if self.take("GLOBAL") {
                let name = match self.next() {
                    Some(Token::Word(w)) => w,
                    _ => String::new(),
                };
                return Statement::SetGlobal(name);
            }
            let _scope = self.take("SESSION") || self.take("LOCAL");
            if self.rest_is(&["TRANSACTION"]) {
                return Statement::Nothing;
            }
            let target = match self.next() {
                Some(Token::SystemVar { name, text }) => {
                    if text.to_ascii_lowercase().starts_with("@@global.") {
                        return Statement::SetGlobal(name);
                    }
                    None
                }
                Some(Token::UserVar(v)) => Some(v),
                Some(Token::Word(_)) => None,
                _ => return Statement::Malformed("SET needs a variable".into()),
            };
            self.take_symbol(':');
            if !self.take_symbol('=') {
                return Statement::Malformed("SET needs '=' behind the variable".into());
            }
            match (target, self.expr()) {
                (Some(name), Some((_, value))) => user.push((name, value)),
                (None, Some(_)) => {
                    // Session variables change nothing here, however complicated the value (CONCAT(...), sql_mode lists).
                }
                (_, None) => return Statement::Malformed("SET needs a value behind '='".into()),
            }
            if !self.take_symbol(',') {
                break;
            }
        }
        if self.peek().is_some() {
            return Statement::Malformed("SET: something is left over behind the value".into());
        }
        if user.is_empty() { Statement::Nothing } else { Statement::SetUser(user) }
    }

    fn show(&mut self) -> Statement {
        let _scope = self.take("GLOBAL") || self.take("SESSION") || self.take("LOCAL") || self.take("FULL");
        let _all = self.take("ALL");
        for words in [&["MASTER", "STATUS"][..], &["BINLOG", "STATUS"], &["BINARY", "LOG", "STATUS"]] {
            if self.rest_is(words) {
                return Statement::ShowMasterStatus;
            }
        }
        for words in [&["BINARY", "LOGS"][..], &["MASTER", "LOGS"]] {
            if self.rest_is(words) {
                return Statement::ShowBinaryLogs;
            }
        }
        for words in [&["SLAVE", "HOSTS"][..], &["REPLICA", "HOSTS"], &["REPLICAS"]] {
            if self.rest_is(words) && self.tokens.len() == self.at + words.len() {
                return Statement::ShowReplicas;
            }
        }
        for first in ["SLAVE", "SLAVES", "REPLICA", "REPLICAS"] {
            if self.rest_is(&[first, "STATUS"]) {
                return Statement::ShowReplicaStatus;
            }
        }
        if self.take("VARIABLES") {
            return self.pattern().map_or(Statement::Unsupported, Statement::ShowVariables);
        }
        if self.take("STATUS") {
            return self.pattern().map_or(Statement::Unsupported, Statement::ShowStatus);
        }
        if self.take("PROCESSLIST") {
            return Statement::ShowProcesslist;
        }
        for (word, column) in [
            ("DATABASES", "Database"),
            ("SCHEMAS", "Database"),
            ("TABLES", "Tables"),
            ("WARNINGS", "Level"),
            ("ERRORS", "Level"),
        ] {
            if self.take(word) {
                return Statement::ShowEmpty(column);
            }
        }
        Statement::Unsupported
    }

    /// `LIKE 'x'` or `WHERE Variable_name = 'x'` (or `IN ('x')`, LIKE); nothing is everything.
    fn pattern(&mut self) -> Option<Option<String>> {
        if self.peek().is_none() {
            return Some(None);
        }
        if self.take("WHERE") {
            if !self.take("Variable_name") {
                return None;
            }
            if !self.take_symbol('=') && !self.take("IN") && !self.take("LIKE") {
                return None;
            }
            self.take_symbol('(');
        } else if !self.take("LIKE") {
            return None;
        }
        match self.next()? {
            Token::Text(t) => {
                self.take_symbol(')');
                self.peek().is_none().then_some(Some(t))
            }
            _ => None,
        }
    }

    fn kill(&mut self) -> Statement {
        let _how = self.take("HARD") || self.take("SOFT");
        let query_only = self.take("QUERY");
        let _whole = !query_only && self.take("CONNECTION");
        match (self.next(), self.peek()) {
            (Some(Token::Number(n)), None) => match n.parse() {
                Ok(connection) => Statement::Kill { query_only, connection },
                Err(_) => Statement::Malformed(format!("{n} is no connection number")),
            },
            _ => Statement::Malformed("KILL needs a connection number".into()),
        }
    }
}

/// Whether `text` matches a LIKE pattern (`%`, `_`, backslash escapes), ignoring case as variables' names do.
pub(super) fn like(pattern: &str, text: &str) -> bool {
    fn matches(p: &[char], t: &[char]) -> bool {
        // Iterative with one backtrack point: no pattern takes more than |p| * |t| steps.
        let (mut i, mut j, mut star) = (0, 0, None);
        while j < t.len() {
            match p.get(i) {
                Some('%') => {
                    star = Some((i + 1, j));
                    i += 1;
                }
                Some('_') => {
                    i += 1;
                    j += 1;
                }
                Some('\\') if p.get(i + 1) == Some(&t[j]) => {
                    i += 2;
                    j += 1;
                }
                Some(c) if *c == t[j] => {
                    i += 1;
                    j += 1;
                }
                _ => match star {
                    Some((after, from)) => {
                        star = Some((after, from + 1));
                        i = after;
                        j = from + 1;
                    }
                    None => return false,
                },
            }
        }
        p[i..].iter().all(|c| *c == '%')
    }
    let fold = |s: &str| s.to_lowercase().chars().collect::<Vec<_>>();
    matches(&fold(pattern), &fold(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_replicas_parse() {
        assert_eq!(
            parse("SELECT binlog_gtid_pos('mbin.000001',591)"),
            Statement::Select(vec![(
                "binlog_gtid_pos('mbin.000001',591)".into(),
                Expr::Call {
                    name: "BINLOG_GTID_POS".into(),
                    args: vec![Expr::Text("mbin.000001".into()), Expr::Number("591".into())]
                }
            )])
        );
        assert_eq!(
            parse("SET @slave_uuid = 'a', @replica_uuid = 'b'"),
            Statement::SetUser(vec![
                ("slave_uuid".into(), Expr::Text("a".into())),
                ("replica_uuid".into(), Expr::Text("b".into()))
            ])
        );
        assert_eq!(parse("SHOW VARIABLES LIKE 'SERVER_ID'"), Statement::ShowVariables(Some("SERVER_ID".into())));
        assert_eq!(
            parse("SHOW GLOBAL VARIABLES WHERE Variable_name = 'binlog_checksum'"),
            Statement::ShowVariables(Some("binlog_checksum".into()))
        );
        assert_eq!(parse("KILL 17"), Statement::Kill { query_only: false, connection: 17 });
        assert_eq!(parse("SET skip_replication=1"), Statement::Nothing);
        assert_eq!(parse("SET NAMES latin1"), Statement::Nothing);
    }

    #[test]
    fn statements_of_a_dba_parse() {
        for sql in ["SHOW MASTER STATUS", "show binlog status", "SHOW BINARY LOG STATUS;"] {
            assert_eq!(parse(sql), Statement::ShowMasterStatus, "{sql}");
        }
        for sql in ["SHOW SLAVE HOSTS", "SHOW REPLICAS", "SHOW REPLICA HOSTS"] {
            assert_eq!(parse(sql), Statement::ShowReplicas, "{sql}");
        }
        for sql in ["SHOW SLAVE STATUS", "SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW REPLICAS STATUS"] {
            assert_eq!(parse(sql), Statement::ShowReplicaStatus, "{sql}");
        }
        assert_eq!(parse("SET GLOBAL max_connections = 1"), Statement::SetGlobal("max_connections".into()));
        assert_eq!(parse("DROP TABLE t"), Statement::Unsupported);
        assert_eq!(parse("SELECT * FROM t"), Statement::Unsupported);
        assert!(matches!(parse("SELECT 'x"), Statement::Malformed(_)));
    }

    #[test]
    fn calls_nested_without_end_are_refused() {
        assert_eq!(parse(&format!("SELECT {}", "f(".repeat(100_000))), Statement::Unsupported);
    }

    #[test]
    fn like_patterns_match_as_in_sql() {
        assert!(like("SERVER_ID", "server_id"));
        assert!(like("%checksum%", "binlog_checksum"));
        assert!(like("a%b%c", "aXXbYYc"));
        assert!(!like("a%b", "aXXc"));
        assert!(like("gtid\\_mode", "gtid_mode"));
        assert!(!like("gtid\\_mode", "gtidXmode"));
    }
}

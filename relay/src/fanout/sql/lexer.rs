//! Splits a statement into tokens: enough SQL for what replicas, CDC clients and a DBA's client say to a replication source.

/// One token of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare or back-quoted word.
    Word(String),
    /// `@name`: a user variable.
    UserVar(String),
    /// `@@name`, `@@global.name`: a system variable without its scope, lower case.
    SystemVar {
        /// Lower-case name.
        name: String,
        /// As written, for use as a column's name.
        text: String,
    },
    /// A quoted string, unquoted.
    Text(String),
    /// A number as written.
    Number(String),
    /// Anything else.
    Symbol(char),
}

impl Token {
    /// Whether it is this word, whatever its case.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w.eq_ignore_ascii_case(word))
    }

    /// Whether it is this symbol.
    pub(super) fn is_symbol(&self, symbol: char) -> bool {
        *self == Self::Symbol(symbol)
    }
}

/// The tokens of `sql`; comments are left out, executable ones (`/*!40100 ... */`) too. `Err` names what never ends.
pub(super) fn tokens(sql: &str) -> Result<Vec<Token>, &'static str> {
    let mut lexer = Lexer { chars: sql.chars().collect(), at: 0 };
    let mut out = Vec::new();
    while let Some(token) = lexer.next()? {
        out.push(token);
    }
    while out.last().is_some_and(|t| t.is_symbol(';')) {
        out.pop();
    }
    Ok(out)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Result<Option<Token>, &'static str> {
        self.skip_blanks_and_comments()?;
        let Some(c) = self.peek(0) else { return Ok(None) };
        let token = match c {
            '\'' | '"' => Token::Text(self.quoted(c)?),
            '`' => Token::Word(self.quoted(c)?),
            '@' => self.variable()?,
            c if c.is_ascii_digit() => Token::Number(self.run(|c| c.is_ascii_alphanumeric() || c == '.')),
            c if is_word(c) => Token::Word(self.run(is_word)),
            c => {
                self.at += 1;
                Token::Symbol(c)
            }
        };
        Ok(Some(token))
    }

    fn skip_blanks_and_comments(&mut self) -> Result<(), &'static str> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(c), _) if c.is_whitespace() => self.at += 1,
                (Some('#'), _) | (Some('-'), Some('-')) => {
                    self.run(|c| c != '\n');
                }
                (Some('/'), Some('*')) => {
                    self.at += 2;
                    while !(self.peek(0) == Some('*') && self.peek(1) == Some('/')) {
                        if self.peek(0).is_none() {
                            return Err("a comment");
                        }
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn run(&mut self, keep: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(&keep) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn quoted(&mut self, quote: char) -> Result<String, &'static str> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.peek(0) else { return Err("a quoted string") };
            self.at += 1;
            if c == quote {
                if self.peek(0) != Some(quote) {
                    return Ok(out);
                }
                self.at += 1;
                out.push(quote);
            } else if c == '\\' && quote != '`' {
                let Some(escaped) = self.peek(0) else { return Err("a quoted string") };
                self.at += 1;
                // LIKE patterns keep their escapes of wildcards.
                if matches!(escaped, '%' | '_') {
                    out.push('\\');
                }
                out.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '0' => '\0',
                    other => other,
                });
            } else {
                out.push(c);
            }
        }
    }

    fn variable(&mut self) -> Result<Token, &'static str> {
        let start = self.at;
        self.at += 1;
        if self.peek(0) == Some('@') {
            self.at += 1;
            let mut name = self.name_part()?;
            if ["global", "session", "local"].iter().any(|s| name.eq_ignore_ascii_case(s)) && self.peek(0) == Some('.')
            {
                self.at += 1;
                name = self.name_part()?;
            }
            let text = self.chars[start..self.at].iter().collect();
            return Ok(Token::SystemVar { name: name.to_ascii_lowercase(), text });
        }
        let name = match self.peek(0) {
            Some(q @ ('\'' | '"')) => self.quoted(q)?,
            _ => self.name_part()?,
        };
        Ok(Token::UserVar(name.to_ascii_lowercase()))
    }

    fn name_part(&mut self) -> Result<String, &'static str> {
        if self.peek(0) == Some('`') { self.quoted('`') } else { Ok(self.run(is_word)) }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicas_statement_is_split_into_its_variables() {
        let got = tokens("SET @master_binlog_checksum= @@global.binlog_checksum;").unwrap_or_default();
        assert_eq!(
            got,
            [
                Token::Word("SET".into()),
                Token::UserVar("master_binlog_checksum".into()),
                Token::Symbol('='),
                Token::SystemVar { name: "binlog_checksum".into(), text: "@@global.binlog_checksum".into() },
            ]
        );
    }

    #[test]
    fn quotes_comments_and_escapes_are_understood() {
        let got = tokens("/* hi */ SELECT 'it''s', \"a\\\"b\" -- end\n, `x`").unwrap_or_default();
        assert_eq!(got[1], Token::Text("it's".into()));
        assert_eq!(got[3], Token::Text("a\"b".into()));
        assert_eq!(got[5], Token::Word("x".into()));
    }

    #[test]
    fn what_never_ends_is_named() {
        assert_eq!(tokens("SELECT 'x"), Err("a quoted string"));
        assert_eq!(tokens("SELECT /* x"), Err("a comment"));
    }
}

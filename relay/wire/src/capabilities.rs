//! Capability flags, by which client and server agree on the shape of packets.
//!
//! Owns the names of the bits (MySQL internals, "Capabilities Flags"; MariaDB, "Connection phase"). Decides nothing.

/// New password hashing. MariaDB calls this bit `CLIENT_MYSQL` and clears it to say that it has extended capabilities.
pub const CLIENT_LONG_PASSWORD: u32 = 1;
/// `UPDATE` counts matched instead of changed rows.
pub const CLIENT_FOUND_ROWS: u32 = 1 << 1;
/// Column flags take two bytes.
pub const CLIENT_LONG_FLAG: u32 = 1 << 2;
/// The handshake response names a database.
pub const CLIENT_CONNECT_WITH_DB: u32 = 1 << 3;
/// `database.table.column` is not allowed.
pub const CLIENT_NO_SCHEMA: u32 = 1 << 4;
/// Frames compressed by zlib after authentication.
pub const CLIENT_COMPRESS: u32 = 1 << 5;
/// Special behaviour for ODBC.
pub const CLIENT_ODBC: u32 = 1 << 6;
/// `LOAD DATA LOCAL` is allowed.
pub const CLIENT_LOCAL_FILES: u32 = 1 << 7;
/// The parser may ignore spaces before a parenthesis.
pub const CLIENT_IGNORE_SPACE: u32 = 1 << 8;
/// The protocol of version 4.1 and later; nothing older is understood here.
pub const CLIENT_PROTOCOL_41: u32 = 1 << 9;
/// The client is a person: the longer idle timeout applies.
pub const CLIENT_INTERACTIVE: u32 = 1 << 10;
/// TLS after an SSLRequest.
pub const CLIENT_SSL: u32 = 1 << 11;
/// Of the client library only.
pub const CLIENT_IGNORE_SIGPIPE: u32 = 1 << 12;
/// The status flags tell of transactions.
pub const CLIENT_TRANSACTIONS: u32 = 1 << 13;
/// Not used any more.
pub const CLIENT_RESERVED: u32 = 1 << 14;
/// Passwords are proven against a 20-byte nonce.
pub const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
/// Several statements in one `COM_QUERY`.
pub const CLIENT_MULTI_STATEMENTS: u32 = 1 << 16;
/// Several result sets in one answer.
pub const CLIENT_MULTI_RESULTS: u32 = 1 << 17;
/// The same for prepared statements.
pub const CLIENT_PS_MULTI_RESULTS: u32 = 1 << 18;
/// Authentication methods have names and can be switched.
pub const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;
/// The handshake response carries attributes of the client.
pub const CLIENT_CONNECT_ATTRS: u32 = 1 << 20;
/// The authentication field of the handshake response has a length-encoded length.
pub const CLIENT_PLUGIN_AUTH_LENENC: u32 = 1 << 21;
/// The client can handle expired passwords.
pub const CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS: u32 = 1 << 22;
/// OK packets tell of changes of the session.
pub const CLIENT_SESSION_TRACK: u32 = 1 << 23;
/// Result sets end with an OK packet (header `fe`) instead of EOF packets.
pub const CLIENT_DEPRECATE_EOF: u32 = 1 << 24;
/// Result sets may come without column definitions (MySQL).
pub const CLIENT_OPTIONAL_RESULTSET_METADATA: u32 = 1 << 25;
/// Frames compressed by zstd after authentication; adds a level byte to the handshake response (MySQL).
pub const CLIENT_ZSTD_COMPRESSION: u32 = 1 << 26;
/// `COM_QUERY` begins with query attributes (MySQL).
pub const CLIENT_QUERY_ATTRIBUTES: u32 = 1 << 27;
/// More than one authentication factor (MySQL).
pub const CLIENT_MULTI_FACTOR_AUTHENTICATION: u32 = 1 << 28;
/// Reserved for a longer capability field.
pub const CLIENT_CAPABILITY_EXTENSION: u32 = 1 << 29;
/// Of the client library only: verify the server's certificate.
pub const CLIENT_SSL_VERIFY_SERVER_CERT: u32 = 1 << 30;
/// Of the client library only: keep the options after a failed connect.
pub const CLIENT_REMEMBER_OPTIONS: u32 = 1 << 31;

/// MariaDB extended: progress reports in ERR packets.
pub const MARIADB_CLIENT_PROGRESS: u32 = 1;
/// MariaDB extended: several commands in one packet (withdrawn).
pub const MARIADB_CLIENT_COM_MULTI: u32 = 1 << 1;
/// MariaDB extended: bulk execution of prepared statements.
pub const MARIADB_CLIENT_STMT_BULK_OPERATIONS: u32 = 1 << 2;
/// MariaDB extended: column definitions carry one more length-encoded string.
pub const MARIADB_CLIENT_EXTENDED_METADATA: u32 = 1 << 3;
/// MariaDB extended: the column count is followed by a byte that says whether definitions follow.
pub const MARIADB_CLIENT_CACHE_METADATA: u32 = 1 << 4;
/// MariaDB extended: bulk execution answers with one result for each row.
pub const MARIADB_CLIENT_BULK_UNIT_RESULTS: u32 = 1 << 5;

/// Whether all bits of `flag` are in `capabilities`.
pub const fn has(capabilities: u32, flag: u32) -> bool {
    capabilities & flag == flag
}

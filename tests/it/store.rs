//! The store over a real mongod: kinds of errors, transactions, the connection string's options, logins, waiting.

mod fixture;
mod indexes;
mod kinds;
mod login;
mod options;
mod tokens;
mod transactions;
mod waiting;

//! One attempt: guard, sign, authenticate, POST, and say what came of it. Knows nothing of MongoDB.

#pragma once

#include <string>
#include <string_view>

#include "base/crypto.h"

/// A line of text and, on a second line, a signature over exactly its bytes:
/// the outer form of heads and lock records.
namespace isr {

/// line | "\n" | base64(Ed25519 over domain | 0 u8 | length u64 | line) | "\n".
Bytes sign_text(std::string_view domain, std::string_view line, const SigningKey& key);
/// Checks the signature and returns the line. Error{kCorrupt} naming `what` when the blob has another form, is above
/// max_size or the signature is bad.
std::string_view open_signed_text(ByteView blob, std::string_view domain, const PublicKey& signer, std::size_t max_size,
                                  std::string_view what);

}  // namespace isr

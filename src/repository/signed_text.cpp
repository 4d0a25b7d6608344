#include "repository/signed_text.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::size_t kSignatureText = 88;  // base64 of 64 bytes

// The domain keeps a lock record from being accepted as a head. The length keeps the message unambiguous should
// anything be appended to it in the future.
Bytes message_of(std::string_view domain, std::string_view line) {
  ByteWriter out;
  out.put(as_bytes(domain)).u8(0).u64(line.size()).put(as_bytes(line));
  return out.take();
}

}  // namespace

Bytes sign_text(std::string_view domain, std::string_view line, const SigningKey& key) {
  const Signature signature = sign(key, message_of(domain, line));
  std::string out(line);
  out += '\n';
  out += to_base64(signature.view());
  out += '\n';
  return to_bytes(as_bytes(out));
}

std::string_view open_signed_text(ByteView blob, std::string_view domain, const PublicKey& signer, std::size_t max_size,
                                  std::string_view what) {
  const std::string_view text = as_text(blob);
  if (text.size() > max_size) throw Error(ErrorKind::kCorrupt, fmt::format("{}: too large", what));
  const std::size_t tail = kSignatureText + 2;
  if (text.size() < tail || text.back() != '\n' || text[text.size() - tail] != '\n') {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: not a line and its signature", what));
  }
  const std::string_view line = text.substr(0, text.size() - tail);
  const auto signature = from_base64(text.substr(text.size() - tail + 1, kSignatureText));
  if (line.find('\n') != std::string_view::npos || !signature || signature->size() != Signature::kSize) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: not a line and its signature", what));
  }
  if (!verify_signature(signer, message_of(domain, line), *signature)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: the signature is not by the expected key", what));
  }
  return line;
}

}  // namespace isr

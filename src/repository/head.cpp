// The blob is made once and never rebuilt from the parsed head: readers hash and verify the bytes they received.
// Parsing ends with encoding the result and comparing it with the input. So a head has exactly one form, and no part of
// it is ignored.
#include "repository/head.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/strict_json.h"
#include "repository/keybox.h"
#include "repository/sequence.h"
#include "repository/signed_text.h"

namespace isr {
namespace {

constexpr std::string_view kFormat = "isr1-head";
constexpr std::string_view kDomain = "isr1/head";
constexpr std::size_t kMaxChainSize = 256;
constexpr std::size_t kMaxRoots = 1024;

Bytes payload_context(const std::string& chain, std::uint64_t n, std::uint32_t epoch) {
  ByteWriter out;
  out.put(as_bytes("isr1/head-payload")).u8(0).u32(static_cast<std::uint32_t>(chain.size())).put(as_bytes(chain));
  out.u64(n).u32(epoch);
  return out.take();
}

std::string encode_line(const Head& head) {
  JsonWriter json;
  json.text("format", kFormat).text("chain", head.chain).number("n", head.n).hex("prev", head.prev.view());
  json.open_array("skipped");
  for (const Sha256& junk : head.skipped) json.hex("", junk.view());
  json.close_array();
  json.time("time", head.time).text("host", head.host).number("epoch", head.epoch).hex("signer", head.signer.view());
  json.open_array("roots");
  for (const Cid& root : head.roots) json.hex("", root.view());
  json.close_array().base64("sealed", head.sealed);
  return json.take();
}

template <class Hash>
std::vector<Hash> hashes_of(JsonFields& fields, const char* name, std::size_t max_count) {
  std::vector<Hash> hashes;
  for (const JsonValue& item : fields.array(name, max_count)) {
    const auto hash = item.kind == JsonValue::Kind::kText ? fixed_from_hex<Hash>(item.text) : std::nullopt;
    if (!hash) fields.fail(name, "holds something other than hashes");
    hashes.push_back(*hash);
  }
  return hashes;
}

Head decode_line(std::string_view line, const std::string& what) {
  const JsonValue value = parse_strict_json(line, what);
  JsonFields fields(value, what);
  Head head;
  if (fields.text("format", 32) != kFormat) fields.fail("format", "is unknown");
  head.chain = fields.text("chain", kMaxChainSize);
  head.n = fields.number("n", 1, kMaxSequence);
  head.prev = fields.hex<Sha256>("prev");
  head.skipped = hashes_of<Sha256>(fields, "skipped", kMaxSkipped);
  head.time = fields.time("time");
  head.host = fields.text("host", 64);
  head.epoch = static_cast<std::uint32_t>(fields.number("epoch", 1, UINT32_MAX));
  head.signer = fields.hex<PublicKey>("signer");
  head.roots = hashes_of<Cid>(fields, "roots", kMaxRoots);
  head.sealed = fields.base64("sealed", kMaxHeadSize);
  fields.expect_end();
  if (head.prev.is_zero() != (head.n == 1)) fields.fail("prev", "does not match n");
  if (!head.skipped.empty() && head.skipped.size() + 1 >= head.n) fields.fail("skipped", "is longer than n allows");
  try {
    check_user_name(head.host);
  } catch (const Error&) {
    fields.fail("host", "is not a host name");
  }
  if (encode_line(head) != line) throw Error(ErrorKind::kCorrupt, fmt::format("{}: not in canonical form", what));
  return head;
}

}  // namespace

Bytes seal_payload(const Key& epoch_key, const std::string& chain, std::uint64_t n, std::uint32_t epoch,
                   ByteView payload) {
  return seal_box(epoch_key, payload_context(chain, n, epoch), payload);
}

Bytes open_payload(const Key& epoch_key, const Head& head) {
  auto payload = open_box(epoch_key, payload_context(head.chain, head.n, head.epoch), head.sealed);
  if (!payload) {
    throw Error(ErrorKind::kDenied,
                fmt::format("{} version {}: the key of epoch {} does not open it", head.chain, head.n, head.epoch));
  }
  return std::move(*payload);
}

Bytes encode_head(Head head, const SigningKey& key) {
  head.signer = key.public_key;
  Bytes blob = sign_text(kDomain, encode_line(head), key);
  // Checks that readers will accept the head before it is published.
  try {
    decode_head(blob, key.public_key, head.chain, head.n);
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, fmt::format("cannot write a head: {}", error.what()));
  }
  return blob;
}

Head decode_head(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t n) {
  const std::string what = fmt::format("{} version {}", chain, n);
  const std::string_view line = open_signed_text(blob, kDomain, signer, kMaxHeadSize, what);
  Head head = decode_line(line, what);
  if (head.chain != chain || head.n != n) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: its place holds another head of the same signer", what));
  }
  if (head.signer != signer) throw Error(ErrorKind::kCorrupt, fmt::format("{}: it names another signer", what));
  return head;
}

std::optional<Head> find_head(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t n) {
  const std::string what = fmt::format("{} version {}", chain, n);
  std::string_view line;
  try {
    line = open_signed_text(blob, kDomain, signer, kMaxHeadSize, what);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    return std::nullopt;
  }
  const Head head = decode_line(line, what);
  if (head.chain != chain || head.n != n) return std::nullopt;
  return decode_head(blob, signer, chain, n);
}

Sha256 head_hash(ByteView blob) { return sha256(blob); }

}  // namespace isr

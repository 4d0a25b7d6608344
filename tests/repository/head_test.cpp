#include "repository/head.h"

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "repository/signed_text.h"

namespace isr {
namespace {

using test::kind_thrown_by;
using test::text_bytes;

const SigningKey& writer() {
  static const SigningKey key = signing_key_from_seed({.value = {1, 2, 3}});
  return key;
}

Head example() {
  Head head;
  head.chain = "parcels/4f";
  head.n = 41;
  head.prev = sha256(text_bytes("head 39"));
  head.skipped = {sha256(text_bytes("junk under the number 40"))};
  head.time = *from_rfc3339("2026-11-23T04:06:20Z");
  head.host = "desk-42";
  head.epoch = 2;
  head.roots = {cid_of(text_bytes("disk")), cid_of(text_bytes("memory"))};
  head.sealed = text_bytes("a box under the epoch key, as far as this test is concerned");
  return head;
}

/// The first line of the example, with one part replaced, signed again.
Bytes altered(const std::string& from, const std::string& to) {
  const Bytes blob = encode_head(example(), writer());
  std::string line(as_text(blob).substr(0, as_text(blob).find('\n')));
  const auto at = line.find(from);
  REQUIRE(at != std::string::npos);
  line.replace(at, from.size(), to);
  return sign_text("isr1/head", line, writer());
}

ErrorKind decode_kind(ByteView blob) {
  return kind_thrown_by([&] { decode_head(blob, writer().public_key, "parcels/4f", 41); });
}

TEST_CASE("a head is read as it was written", "[repository]") {
  const Head head = example();
  const Head read = decode_head(encode_head(head, writer()), writer().public_key, "parcels/4f", 41);
  CHECK(read.chain == head.chain);
  CHECK(read.n == 41);
  CHECK((read.prev == head.prev));
  CHECK((read.skipped == head.skipped));
  CHECK((read.time == head.time));
  CHECK(read.host == "desk-42");
  CHECK(read.epoch == 2);
  CHECK((read.signer == writer().public_key));
  CHECK((read.roots == head.roots));
  CHECK((read.sealed == head.sealed));
}

TEST_CASE("a head of version 1 of the format stays readable, byte for byte", "[repository]") {
  const Bytes golden = read_file(std::string(ISR_GOLDEN_DIR) + "/head/v1", kMaxHeadSize);
  CHECK((encode_head(example(), writer()) == golden));
  CHECK(decode_head(golden, writer().public_key, "parcels/4f", 41).n == 41);
}

TEST_CASE("a head that was not signed for its place is junk, and one of an unknown format is not", "[repository]") {
  const auto find = [](ByteView blob, const std::string& chain, std::uint64_t n) {
    return find_head(blob, writer().public_key, chain, n);
  };
  const Bytes blob = encode_head(example(), writer());
  CHECK(find(blob, "parcels/4f", 41)->n == 41);
  CHECK_FALSE(find(blob, "parcels/4f", 42).has_value());
  CHECK_FALSE(find(blob, "parcels/5f", 41).has_value());
  CHECK_FALSE(find(test::flip_bit(blob, 99), "parcels/4f", 41).has_value());
  CHECK_FALSE(find({}, "parcels/4f", 41).has_value());
  CHECK(kind_thrown_by([&] { find(altered("isr1-head", "isr9-head"), "parcels/4f", 41); }) == ErrorKind::kCorrupt);
}

TEST_CASE("a head is refused when its bytes are not those that the signer signed", "[repository]") {
  const Bytes blob = encode_head(example(), writer());
  for (std::size_t bit = 0; bit < blob.size() * 8; ++bit) {
    if (bit % 8 != (bit / 8) % 8) continue;  // one bit of each byte
    INFO("bit " << bit);
    CHECK(decode_kind(test::flip_bit(blob, bit)) == ErrorKind::kCorrupt);
  }
  for (std::size_t size = 0; size < blob.size(); ++size) {
    CHECK(decode_kind(ByteView(blob).first(size)) == ErrorKind::kCorrupt);
  }
  Bytes longer = blob;
  longer.push_back('\n');
  CHECK(decode_kind(longer) == ErrorKind::kCorrupt);
  Bytes shifted = blob;
  shifted.insert(shifted.begin(), ' ');
  CHECK(decode_kind(shifted) == ErrorKind::kCorrupt);
  CHECK(decode_kind(Bytes(kMaxHeadSize + 1)) == ErrorKind::kCorrupt);

  const SigningKey other = signing_key_from_seed({.value = {9}});
  CHECK(decode_kind(encode_head(example(), other)) == ErrorKind::kCorrupt);
  CHECK(kind_thrown_by([&] { decode_head(blob, writer().public_key, "parcels/4e", 41); }) == ErrorKind::kCorrupt);
  CHECK(kind_thrown_by([&] { decode_head(blob, writer().public_key, "parcels/4f", 42); }) == ErrorKind::kCorrupt);
}

TEST_CASE("even a signed head is refused when its form or bounds are wrong", "[repository]") {
  const std::string zeros(64, '0');
  const std::string deep(100'000, '[');
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"{\"format\"", " {\"format\""},
      {"{\"format\"", "{ \"format\""},
      {"isr1-head", "isr2-head"},
      {"isr1-head", "isr1-lock"},
      {"\"n\":41", "\"n\":0"},
      {"\"n\":41", "\"n\":-1"},
      {"\"n\":41", "\"n\":41.0"},
      {"\"n\":41", "\"n\":4.1e1"},
      {"\"n\":41", "\"n\":041"},
      {"\"n\":41", "\"n\":\"41\""},
      {"\"n\":41", "\"n\":1"},
      {"\"n\":41", "\"n\":42"},
      {"\"n\":41", "\"n\":18446744073709551615"},
      {"\"n\":41", "\"n\":18446744073709551616"},
      {"\"n\":41", "\"n\":41,\"n\":41"},
      {"\"n\":41", "\"n\":41,\"m\":41"},
      {"\"n\":41,", ""},
      {"\"n\":41", "\"n\":null"},
      {"\"n\":41", "\"n\":" + deep},
      {"\"n\":41", "\"n\":[[[[41]]]]"},
      {"\"epoch\":2", "\"epoch\":0"},
      {"\"epoch\":2", "\"epoch\":4294967296"},
      {"2026-11-23T04:06:20Z", "9999-12-31T23:59:59Z"},
      {"2026-11-23T04:06:20Z", "10000-01-01T00:00:00Z"},
      {"2026-11-23T04:06:20Z", "1969-12-31T23:59:59Z"},
      {"2026-11-23T04:06:20Z", "2026-13-23T04:06:20Z"},
      {"2026-11-23T04:06:20Z", "2026-11-23T05:06:20+01:00"},
      {"desk-42", ""},
      {"desk-42", "desk 42"},
      {"desk-42", "desk\\u001b[2J"},
      {"desk-42", "desk-4\\u0032"},
      {"desk-42", std::string(65, 'd')},
      {"parcels/4f", "parcels/../4f"},
      {to_hex(example().prev.view()), zeros},
      {to_hex(example().prev.view()), to_hex(example().prev.view()).substr(2)},
      {to_hex(writer().public_key.view()), zeros},
      {"\"roots\":[", "\"roots\":[1,"},
      {"\"skipped\":[", "\"skipped\":[1,"},
      {"\"skipped\":[", "\"skipped\":[\"00\","},
      {"\"roots\":[", "\"roots\":[\"00\","},
      {"\"sealed\":\"", "\"sealed\":\"*"},
      {"\"}", "\"}\r"},
      {"\"}", "\"} "},
      {"\"}", "\"}{}"},
      {"\"}", "\""},
  };
  for (const auto& [from, to] : changes) {
    INFO(from << " -> " << to.substr(0, 80));
    CHECK(decode_kind(altered(from, to)) == ErrorKind::kCorrupt);
  }
  CHECK(decode_head(altered("desk-42", "desk-43"), writer().public_key, "parcels/4f", 41).host == "desk-43");
}

TEST_CASE("encode_head refuses a head that readers would refuse", "[repository]") {
  const auto kind = [](auto change) {
    Head head = example();
    change(head);
    return kind_thrown_by([&] { encode_head(head, writer()); });
  };
  CHECK(kind([](Head& h) { h.n = 0; }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.n = ~std::uint64_t{0}; }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.n = 1; }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.prev = {}; }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.epoch = 0; }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.host = "Desk\xff"; }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.roots.resize(2000); }) == ErrorKind::kUsage);
  CHECK(kind([](Head& h) { h.sealed.resize(kMaxHeadSize); }) == ErrorKind::kUsage);
}

TEST_CASE("a payload opens only under its key, and only in its place", "[repository]") {
  const Key key{.value = {7}};
  Head head = example();
  head.sealed = seal_payload(key, head.chain, head.n, head.epoch, text_bytes("settings"));
  CHECK((open_payload(key, head) == text_bytes("settings")));
  const auto denied = [&](const Key& with, auto change) {
    Head moved = head;
    change(moved);
    return kind_thrown_by([&] { open_payload(with, moved); }) == ErrorKind::kDenied;
  };
  CHECK(denied(Key{}, [](Head&) {}));
  CHECK(denied(key, [](Head& h) { h.n = 42; }));
  CHECK(denied(key, [](Head& h) { h.epoch = 3; }));
  CHECK(denied(key, [](Head& h) { h.chain = "parcels/4e"; }));
  CHECK(denied(key, [](Head& h) { h.sealed[20] ^= 1; }));
  CHECK(denied(key, [](Head& h) { h.sealed.clear(); }));
}

}  // namespace
}  // namespace isr

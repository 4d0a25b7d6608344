// Sealing derives key and nonce from the sealed content. So there is no counter, random number or state that a crash or
// a cloned machine could repeat. Opening checks lengths and header first, then the tag, and only then the plaintext.
#include "chunkstore/object.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/zstd.h"

namespace isr {
namespace {

constexpr std::string_view kMagic = "ISR1";
constexpr std::string_view kKeyLabel = "isr1/key";
constexpr std::string_view kNonceLabel = "isr1/nonce";
constexpr std::size_t kCountSize = 4;
constexpr std::size_t kPageStart = kObjectHeaderSize + kNonceSize + kCountSize;  // begin of the clear halves
/// A payload larger than this is stored uncompressed, because decompressing it would cost more than it saves.
constexpr std::size_t kMaxCompressed = kChunkSize - kChunkSize / 16;

enum class Codec : std::uint8_t { kRaw = 0, kZstd = 1 };

struct Header {
  ObjectType type;
  Codec codec;
  std::uint32_t raw_length;
};

[[noreturn]] void corrupt(ByteView cid, std::string_view why) {
  throw Error(ErrorKind::kCorrupt, fmt::format("object {}: {}", short_hex(cid), why));
}

Bytes encode(const Header& header) {
  ByteWriter out;
  out.put(as_bytes(kMagic)).u8(static_cast<std::uint8_t>(header.type)).u8(static_cast<std::uint8_t>(header.codec));
  out.u16(0).u32(header.raw_length);
  return out.take();
}

/// nullopt for a magic, type or codec that this program does not know.
std::optional<Header> decode_header(ByteView bytes) {
  ByteReader in(bytes, "object header");
  if (as_text(in.take(kMagic.size())) != kMagic) return std::nullopt;
  const std::uint8_t type = in.u8();
  const std::uint8_t codec = in.u8();
  const bool known = type >= 1 && type <= 2 && codec <= 1 && in.u16() == 0;
  if (!known) return std::nullopt;
  return Header{static_cast<ObjectType>(type), static_cast<Codec>(codec), in.u32()};
}

Key derive_key(const Key& domain_secret, ObjectType type, const Sha256& digest) {
  const std::uint8_t type_byte = static_cast<std::uint8_t>(type);
  return hmac_sha256(domain_secret.view(), {as_bytes(kKeyLabel), ByteView(&type_byte, 1), digest.view()});
}

/// `payload_hash` is the hash of the bytes that get encrypted. So another zstd version, which may compress the same
/// plaintext to other bytes, gets another nonce.
Nonce derive_nonce(const Key& key, ByteView header, const Sha256& payload_hash) {
  const Key full = hmac_sha256(key.view(), {as_bytes(kNonceLabel), header, payload_hash.view()});
  Nonce nonce;
  std::copy_n(full.value.begin(), kNonceSize, nonce.value.begin());
  return nonce;
}

Nonce read_nonce(ByteView object) {
  Nonce nonce;
  std::copy_n(object.begin() + kObjectHeaderSize, kNonceSize, nonce.value.begin());
  return nonce;
}

template <class Array>
void place(Bytes& out, std::size_t offset, const Array& bytes) {
  std::copy(bytes.begin(), bytes.end(), out.begin() + static_cast<std::ptrdiff_t>(offset));
}

/// Whether a reference may have this object length, besides 0.
bool is_object_length(std::uint32_t length) noexcept { return length > kObjectOverhead && length <= kMaxObjectSize; }

/// The checks that need no key: the object has the length in the reference and this type.
Header checked_header(const ChunkRef& ref, ByteView object, ObjectType type) {
  if (!is_object_length(ref.length)) corrupt(ref.cid.view(), "its reference has an impossible length");
  if (object.size() != ref.length) {
    corrupt(ref.cid.view(), fmt::format("{} bytes instead of {}", object.size(), ref.length));
  }
  const auto header = decode_header(object.first(kObjectHeaderSize));
  if (!header || header->type != type) corrupt(ref.cid.view(), "unknown header");
  return *header;
}

/// Wipes the plaintext before it throws. The tag was right, so the reference is wrong and the object is not damaged.
void check_digest(const ChunkRef& ref, MutableBytes plaintext) {
  if (sha256(plaintext) == ref.digest) return;
  wipe(plaintext);
  corrupt(ref.cid.view(), "the content does not match the reference");
}

}  // namespace

SealedObject seal_chunk(ByteView plaintext, const Key& domain_secret) {
  return seal_chunk(plaintext, is_zero(plaintext) ? Sha256{} : sha256(plaintext), domain_secret);
}

SealedObject seal_chunk(ByteView plaintext, const Sha256& digest, const Key& domain_secret) {
  if (plaintext.size() != kChunkSize) {
    throw Error(ErrorKind::kBug, fmt::format("a chunk of {} bytes was to be sealed", plaintext.size()));
  }
  if (is_zero(plaintext)) return {};
  SealedObject sealed;
  ChunkRef& ref = sealed.ref;
  ref.digest = digest;
  ref.sha1 = sha1(plaintext);
  ref.key = derive_key(domain_secret, ObjectType::kChunk, ref.digest);

  const Bytes compressed = zstd_compress(plaintext);
  const bool smaller = compressed.size() <= kMaxCompressed;
  const ByteView payload = smaller ? ByteView(compressed) : plaintext;
  const Bytes header = encode({ObjectType::kChunk, smaller ? Codec::kZstd : Codec::kRaw, kChunkSize});
  const Nonce nonce = derive_nonce(ref.key, header, smaller ? sha256(payload) : ref.digest);

  Bytes& out = sealed.bytes;
  out.resize(payload.size() + kObjectOverhead);
  place(out, 0, header);
  place(out, kObjectHeaderSize, nonce.value);
  const auto body = MutableBytes(out).subspan(kObjectHeaderSize + kNonceSize, payload.size());
  place(out, out.size() - kTagSize, gcm_seal(ref.key, nonce, {header}, payload, body));
  ref.length = static_cast<std::uint32_t>(out.size());
  ref.cid = cid_of(out);
  return sealed;
}

void open_chunk(const ChunkRef& ref, ByteView object, MutableBytes out) {
  if (out.size() != kChunkSize) {
    throw Error(ErrorKind::kBug, fmt::format("a chunk was to be opened into {} bytes", out.size()));
  }
  if (ref.is_zero()) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
    return;
  }
  const Header header = checked_header(ref, object, ObjectType::kChunk);
  if (header.raw_length != kChunkSize) corrupt(ref.cid.view(), "not the length of a chunk");
  const ByteView aad = object.first(kObjectHeaderSize);
  const ByteView payload = object.subspan(kObjectHeaderSize + kNonceSize, object.size() - kObjectOverhead);
  const ByteView tag = object.last(kTagSize);
  if (header.codec == Codec::kRaw) {
    if (payload.size() != kChunkSize) corrupt(ref.cid.view(), "not the length of a chunk");
    if (!gcm_open(ref.key, read_nonce(object), {aad}, payload, tag, out)) corrupt(ref.cid.view(), "the tag is wrong");
  } else {
    thread_local Bytes compressed;  // kept, so that it is not allocated and zeroed for each chunk
    compressed.resize(payload.size());
    if (!gcm_open(ref.key, read_nonce(object), {aad}, payload, tag, compressed)) {
      corrupt(ref.cid.view(), "the tag is wrong");
    }
    if (!zstd_decompress(compressed, out)) {
      wipe(out);
      corrupt(ref.cid.view(), "it does not decompress to a whole chunk");
    }
  }
  check_digest(ref, out);
}

void write_ref(const ChunkRef& ref, ByteWriter& out) {
  const ChunkRef clean = ref.is_zero() ? ChunkRef{} : ref;  // so that equal pages have equal bytes
  out.put(clean.cid.view()).u32(clean.length).put(clean.key.view()).put(clean.digest.view()).put(clean.sha1.view());
}

namespace {

ClearRef read_clear(ByteReader& in) {
  ClearRef ref;
  ref.cid = in.fixed<Cid>();
  ref.length = in.u32();
  if (ref.length != 0 && !is_object_length(ref.length)) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("reference to {}: impossible length {}", short_hex(ref.cid.view()), ref.length));
  }
  return ref;
}

ChunkRef read_secret(const ClearRef& clear, ByteReader& in) {
  ChunkRef ref{clear.cid, clear.length, in.fixed<Key>(), in.fixed<Sha256>(), in.fixed<Sha1>()};
  return ref.is_zero() ? ChunkRef{} : ref;
}

/// A page's plaintext: the clear halves of all references, then the secret halves.
Bytes encode_page(std::span<const ChunkRef> refs) {
  ByteWriter clear;
  ByteWriter secret;
  for (const ChunkRef& ref : refs) {
    ByteWriter one;
    write_ref(ref, one);
    clear.put(ByteView(one.bytes()).first(kClearRefSize));
    secret.put(ByteView(one.bytes()).subspan(kClearRefSize));
  }
  clear.put(secret.bytes());
  return clear.take();
}

/// The number of references in a page object. Error{kCorrupt} unless header and length match it.
std::size_t checked_page_count(ByteView object) {
  ByteReader in(object, "page");
  const auto header = decode_header(in.take(kObjectHeaderSize));
  in.take(kNonceSize);
  const std::uint32_t count = in.u32();
  const bool good = header && header->type == ObjectType::kPage && header->codec == Codec::kRaw && count >= 1 &&
                    count <= kReferencesPerPage && header->raw_length == count * kRefSize &&
                    object.size() == kPageStart + count * kRefSize + kTagSize;
  if (!good) throw Error(ErrorKind::kCorrupt, "page: header, count and length do not match");
  return count;
}

}  // namespace

ChunkRef read_ref(ByteReader& in) {
  const ClearRef clear = read_clear(in);
  return read_secret(clear, in);
}

SealedObject seal_page(std::span<const ChunkRef> refs, const Key& domain_secret) {
  if (refs.size() > kReferencesPerPage) {
    throw Error(ErrorKind::kBug, fmt::format("a page of {} references was to be sealed", refs.size()));
  }
  while (!refs.empty() && refs.back().is_zero()) refs = refs.first(refs.size() - 1);
  if (refs.empty()) return {};
  const Bytes plaintext = encode_page(refs);
  const auto count = static_cast<std::uint32_t>(refs.size());
  const ByteView clear = ByteView(plaintext).first(count * kClearRefSize);
  const ByteView secret = ByteView(plaintext).subspan(clear.size());

  SealedObject sealed;
  ChunkRef& ref = sealed.ref;
  ref.digest = sha256(plaintext);
  ref.sha1 = sha1(plaintext);
  ref.key = derive_key(domain_secret, ObjectType::kPage, ref.digest);
  const Bytes header = encode({ObjectType::kPage, Codec::kRaw, static_cast<std::uint32_t>(plaintext.size())});
  const Bytes count_bytes = ByteWriter().u32(count).take();
  ByteWriter hashed;
  hashed.put(count_bytes).put(plaintext);
  const Nonce nonce = derive_nonce(ref.key, header, sha256(hashed.bytes()));

  Bytes body(secret.size());
  const auto tag = gcm_seal(ref.key, nonce, {header, count_bytes, clear}, secret, body);
  ByteWriter out;
  out.put(header).put(nonce.view()).put(count_bytes).put(clear).put(body).put(tag);
  sealed.bytes = out.take();
  ref.length = static_cast<std::uint32_t>(sealed.bytes.size());
  ref.cid = cid_of(sealed.bytes);
  return sealed;
}

std::vector<ChunkRef> open_page(const ChunkRef& ref, ByteView object) {
  std::vector<ChunkRef> refs(kReferencesPerPage);
  if (ref.is_zero()) return refs;
  checked_header(ref, object, ObjectType::kPage);
  const std::size_t count = checked_page_count(object);
  const ByteView clear = object.subspan(kPageStart, count * kClearRefSize);
  const ByteView sealed = object.subspan(kPageStart + clear.size(), count * kSecretRefSize);
  Bytes plaintext(count * kRefSize);
  std::copy(clear.begin(), clear.end(), plaintext.begin());
  const MutableBytes secret = MutableBytes(plaintext).subspan(clear.size());
  const ByteView header = object.first(kObjectHeaderSize);
  const ByteView count_bytes = object.subspan(kPageStart - kCountSize, kCountSize);
  if (!gcm_open(ref.key, read_nonce(object), {header, count_bytes, clear}, sealed, object.last(kTagSize), secret)) {
    corrupt(ref.cid.view(), "the tag is wrong");
  }
  check_digest(ref, plaintext);
  ByteReader clear_in(clear, "page");
  ByteReader secret_in(secret, "page");
  for (std::size_t i = 0; i < count; ++i) refs[i] = read_secret(read_clear(clear_in), secret_in);
  wipe(plaintext);  // it has keys
  return refs;
}

std::vector<ClearRef> read_clear_refs(ByteView page_object) {
  const std::size_t count = checked_page_count(page_object);
  ByteReader in(page_object.subspan(kPageStart, count * kClearRefSize), "page");
  std::vector<ClearRef> refs;
  refs.reserve(count);
  for (std::size_t i = 0; i < count; ++i) refs.push_back(read_clear(in));
  return refs;
}

}  // namespace isr

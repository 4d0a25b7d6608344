#include "base/crypto.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <set>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/thread_pool.h"
#include "support/bytes.h"
#include "support/error_kind.h"

using namespace isr;

namespace {

Bytes unhex(std::string_view text) { return from_hex(text).value(); }
template <class Fixed>
Fixed fixed(std::string_view text) {
  return fixed_from_hex<Fixed>(text).value();
}
template <class Fixed>
std::string hex(const Fixed& value) {
  return to_hex(value.view());
}
Bytes text_bytes(std::string_view text) { return to_bytes(as_bytes(text)); }

}  // namespace

TEST_CASE("SHA agrees with FIPS 180", "[base][crypto]") {
  CHECK(hex(sha256({})) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex(sha256(as_bytes("abc"))) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(cid_of(as_bytes("abc"))) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(sha256(as_bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hex(sha256(Bytes(1'000'000, 'a'))) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  CHECK(hex(sha1({})) == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  CHECK(hex(sha1(as_bytes("abc"))) == "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST_CASE("HMAC-SHA-256 agrees with RFC 4231", "[base][crypto]") {
  CHECK(hex(hmac_sha256(Bytes(20, 0x0b), {as_bytes("Hi There")})) ==
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  CHECK(hex(hmac_sha256(as_bytes("Jefe"), {as_bytes("what do ya want for nothing?")})) ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  CHECK(hex(hmac_sha256(Bytes(131, 0xaa), {as_bytes("Test Using Larger Than Block-Size Key - Hash Key First")})) ==
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");

  SECTION("in parts or in one piece") {
    CHECK(hex(hmac_sha256(as_bytes("Jefe"), {as_bytes("what do ya "), {}, as_bytes("want for nothing?")})) ==
          "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  }
  SECTION("with an empty key, which is not taken for the last key") {
    hmac_sha256(as_bytes("Jefe"), {});
    CHECK(hex(hmac_sha256({}, {})) == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
  }
}

TEST_CASE("HKDF-SHA-256 agrees with RFC 5869", "[base][crypto]") {
  // We take 32 bytes; HKDF's shorter outputs are prefixes of the longer ones in the RFC.
  Bytes info = unhex("f0f1f2f3f4f5f6f7f8f9");
  CHECK(hex(hkdf_sha256(Bytes(22, 0x0b), unhex("000102030405060708090a0b0c"), as_text(info))) ==
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");

  Bytes secret;
  Bytes salt;
  info.clear();
  for (unsigned i = 0; i < 80; ++i) {
    secret.push_back(static_cast<std::uint8_t>(i));
    salt.push_back(static_cast<std::uint8_t>(0x60 + i));
    info.push_back(static_cast<std::uint8_t>(0xb0 + i));
  }
  CHECK(hex(hkdf_sha256(secret, salt, as_text(info))) ==
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c");
  CHECK(hex(hkdf_sha256(Bytes(22, 0x0b), {}, "")) ==
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
}

TEST_CASE("AES-256-GCM agrees with the vectors of its specification", "[base][crypto]") {
  struct Vector {
    const char *key, *nonce, *aad, *plain, *sealed, *tag;
  };
  const Vector vectors[] = {
      {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "", "", "",
       "530f8afbc74536b9a963b4f1c4cb738b"},
      {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "",
       "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
      {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
       "feedfacedeadbeeffeedfacedeadbeefabaddad2",
       "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
       "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
       "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
       "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
       "76fc6ece0f4e1768cddf8853bb2d551b"}};
  for (const auto& v : vectors) {
    const auto key = fixed<Key>(v.key);
    const auto nonce = fixed<Nonce>(v.nonce);
    const Bytes aad = unhex(v.aad);
    const Bytes plain = unhex(v.plain);
    Bytes out(plain.size());
    const auto tag = gcm_seal(key, nonce, {aad}, plain, out);
    CHECK(to_hex(out) == v.sealed);
    CHECK(to_hex(tag) == v.tag);
    Bytes opened(out.size());
    REQUIRE(gcm_open(key, nonce, {aad}, out, tag, opened));
    CHECK((opened == plain));
  }
}

TEST_CASE("GCM in place and in aad parts gives the same", "[base][crypto]") {
  const Key key = fixed<Key>(std::string(64, '7'));
  const Nonce nonce = fixed<Nonce>(std::string(24, '1'));
  const Bytes plain = test::random_bytes(131072, 1);
  const Bytes aad = test::random_bytes(100, 2);
  const ByteView view(aad);
  Bytes apart(plain.size());
  Bytes same = plain;
  const auto tag = gcm_seal(key, nonce, {aad}, plain, apart);
  CHECK((gcm_seal(key, nonce, {view.first(1), {}, view.subspan(1)}, same, same) == tag));
  CHECK((same == apart));
  REQUIRE(gcm_open(key, nonce, {aad}, same, tag, same));
  CHECK((same == plain));
}

TEST_CASE("GCM refuses input that differs in one bit and returns no plaintext", "[base][crypto]") {
  const Key key = fixed<Key>(std::string(64, '7'));
  const Nonce nonce = fixed<Nonce>(std::string(24, '1'));
  const Bytes plain = test::random_bytes(1000, 1);
  const Bytes aad{1, 2, 3};
  Bytes sealed(plain.size());
  const auto tag_array = gcm_seal(key, nonce, {aad}, plain, sealed);
  const Bytes tag = to_bytes(tag_array);
  const auto refused = [&](const Key& k, const Nonce& n, const Bytes& a, const Bytes& in, const Bytes& t) {
    Bytes out(in.size(), 0x55);
    return !gcm_open(k, n, {a}, in, t, out) && is_zero(out);
  };
  REQUIRE_FALSE(refused(key, nonce, aad, sealed, tag));
  for (std::size_t bit = 0; bit < 8 * kTagSize; ++bit)
    CHECK(refused(key, nonce, aad, sealed, test::flip_bit(tag, bit)));
  for (const std::size_t bit : {0UL, 4001UL, 7999UL}) CHECK(refused(key, nonce, aad, test::flip_bit(sealed, bit), tag));
  CHECK(refused(key, nonce, test::flip_bit(aad, 5), sealed, tag));
  CHECK(refused(key, nonce, Bytes{}, sealed, tag));
  CHECK(refused(fixed<Key>(std::string(64, '6')), nonce, aad, sealed, tag));
  CHECK(refused(key, fixed<Nonce>(std::string(24, '2')), aad, sealed, tag));
  CHECK(refused(key, nonce, aad, Bytes(sealed.begin(), sealed.end() - 1), tag));

  SECTION("with a tag of another size, even a prefix of the right one") {
    CHECK(refused(key, nonce, aad, sealed, Bytes(tag.begin(), tag.end() - 4)));
    CHECK(refused(key, nonce, aad, sealed, Bytes{}));
    CHECK(refused(key, nonce, aad, sealed, Bytes(17)));
  }
  SECTION("and a refusal does not spoil the next call") {
    CHECK(refused(key, nonce, aad, test::flip_bit(sealed, 9), tag));
    CHECK_FALSE(refused(key, nonce, aad, sealed, tag));
  }
}

TEST_CASE("GCM with buffers of different sizes is a kBug", "[base][crypto]") {
  Bytes small(3);
  CHECK((test::kind_thrown([&] { gcm_seal(Key{}, Nonce{}, {}, Bytes(4), small); }) == ErrorKind::kBug));
}

TEST_CASE("many threads may hash, seal and sign at once", "[base][crypto]") {
  std::atomic<int> good{0};
  parallel_for(64, 8, [&](std::size_t i) {
    Key key;
    key.value[0] = static_cast<std::uint8_t>(i);
    const Bytes plain = test::random_bytes(5000 + i, i);
    const Bytes box = seal_box(key, {}, plain);
    const auto pair = signing_key_from_seed(key);
    const bool ok = open_box(key, {}, box) == plain &&
                    verify_signature(pair.public_key, plain, sign(pair, plain).view()) &&
                    sha256(plain).value == cid_of(plain).value &&
                    hmac_sha256(key.view(), {plain}) == hmac_sha256(key.view(), {plain});
    if (ok) ++good;
  });
  CHECK(good == 64);
}

TEST_CASE("a box opens only with its key and aad", "[base][crypto]") {
  const Key key = random_key();
  const Bytes plain = text_bytes("the keybox");
  const Bytes box = seal_box(key, as_bytes("aad"), plain);
  CHECK(box.size() == plain.size() + kNonceSize + kTagSize);
  CHECK((open_box(key, as_bytes("aad"), box) == plain));
  CHECK_FALSE(open_box(key, as_bytes("AAD"), box).has_value());
  CHECK_FALSE(open_box(random_key(), as_bytes("aad"), box).has_value());
  for (std::size_t bit = 0; bit < 8 * box.size(); ++bit) {
    CHECK_FALSE(open_box(key, as_bytes("aad"), test::flip_bit(box, bit)).has_value());
  }
  for (std::size_t size = 0; size < box.size(); ++size) {
    CHECK_FALSE(open_box(key, as_bytes("aad"), ByteView(box).first(size)).has_value());
  }
  CHECK((seal_box(key, as_bytes("aad"), plain) != box));  // a fresh nonce
  CHECK((open_box(key, {}, seal_box(key, {}, {})) == Bytes{}));
}

TEST_CASE("Ed25519 agrees with RFC 8032", "[base][crypto]") {
  struct Vector {
    const char *seed, *public_key, *message, *signature;
  };
  const Vector vectors[] = {{"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                             "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
                             "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701"
                             "cf9b46bd25bf5f0595bbe246"
                             "55141438e7a100b"},
                            {"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                             "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
                             "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d"
                             "0f11d8c387b2eaeb4302aeeb"
                             "00d291612bb0c00"},
                            {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                             "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
                             "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f7609"
                             "84dc6594a7c15e9716ed28dc"
                             "027beceea1ec40a"}};
  for (const auto& v : vectors) {
    const auto key = signing_key_from_seed(fixed<Key>(v.seed));
    const Bytes message = unhex(v.message);
    CHECK(hex(key.public_key) == v.public_key);
    const auto signature = sign(key, message);
    CHECK(hex(signature) == v.signature);
    CHECK(verify_signature(key.public_key, message, signature.view()));
  }
}

TEST_CASE("a signature is valid for one key and one message only", "[base][crypto]") {
  const auto key = signing_key_from_seed(fixed<Key>(std::string(64, '3')));
  const Bytes message = text_bytes("head 7");
  const Bytes signature = to_bytes(sign(key, message).view());
  for (std::size_t bit = 0; bit < 8 * signature.size(); ++bit) {
    CHECK_FALSE(verify_signature(key.public_key, message, test::flip_bit(signature, bit)));
  }
  CHECK_FALSE(verify_signature(key.public_key, text_bytes("head 8"), signature));
  CHECK_FALSE(verify_signature(key.public_key, {}, signature));
  CHECK_FALSE(verify_signature(signing_key_from_seed(Key{}).public_key, message, signature));
  CHECK_FALSE(verify_signature(key.public_key, message, ByteView(signature).first(63)));
  CHECK_FALSE(verify_signature(key.public_key, message, {}));

  SECTION("even when S is written as S + L (RFC 8032 §5.1.7)") {
    const Bytes order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    Bytes other = signature;
    unsigned carry = 0;
    for (std::size_t i = 0; i < 32; ++i) {
      carry += other[32 + i] + order[i];
      other[32 + i] = static_cast<std::uint8_t>(carry);
      carry >>= 8U;
    }
    CHECK_FALSE(verify_signature(key.public_key, message, other));
  }
}

TEST_CASE("scrypt agrees with RFC 7914", "[base][crypto]") {
  // 32 of the RFC's 64 bytes: PBKDF2 makes them block by block.
  CHECK(hex(scrypt({}, {}, {.n = 16, .r = 1, .p = 1})) ==
        "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442");
  CHECK(hex(scrypt(as_bytes("password"), as_bytes("NaCl"), {.n = 1024, .r = 8, .p = 16})) ==
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162");
  CHECK(hex(scrypt(as_bytes("pleaseletmein"), as_bytes("SodiumChloride"), {.n = 16384, .r = 8, .p = 1})) ==
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2");
}

TEST_CASE("scrypt supports the default parameters", "[base][crypto]") {
  CHECK_NOTHROW(check_scrypt_params({}));
  CHECK_FALSE(is_zero(scrypt(as_bytes("secret"), as_bytes("salt"), {}).view()));  // 128 MiB: above OpenSSL's own limit
}

TEST_CASE("hostile scrypt parameters are refused before any work is done", "[base][crypto]") {
  constexpr auto kHuge32 = std::numeric_limits<std::uint32_t>::max();
  const ScryptParams hostile[] = {
      {.n = 0, .r = 8, .p = 1},
      {.n = 1, .r = 8, .p = 1},
      {.n = (1U << 17U) + 1, .r = 8, .p = 1},
      {.n = 1U << 17U, .r = 0, .p = 1},
      {.n = 1U << 17U, .r = 8, .p = 0},
      {.n = 1U << 18U, .r = 8, .p = 1},  // twice the memory of ours
      {.n = std::uint64_t{1} << 63U, .r = 8, .p = 1},
      {.n = std::uint64_t{1} << 63U, .r = kHuge32, .p = kHuge32},
      {.n = 1U << 15U, .r = kHuge32, .p = 1},
      {.n = 1U << 15U, .r = 8, .p = kHuge32},
      {.n = 1U << 15U, .r = 8, .p = 1U << 12U},  // little memory, much time
      {.n = 1U << 16U, .r = 1, .p = 1},          // RFC 7914: N < 2^(16 r)
  };
  for (const auto& params : hostile) {
    CAPTURE(params.n, params.r, params.p);
    CHECK((test::kind_thrown([&] { check_scrypt_params(params); }) == ErrorKind::kCorrupt));
    CHECK((test::kind_thrown([&] { scrypt({}, {}, params); }) == ErrorKind::kCorrupt));
  }
  CHECK((test::kind_thrown([] { check_scrypt_params({.n = 1U << 14U, .r = 8, .p = 1}); }) == ErrorKind::kCorrupt));
  CHECK_NOTHROW(check_scrypt_params({.n = 1U << 15U, .r = 8, .p = 1}));
  CHECK_NOTHROW(check_scrypt_params({.n = 1U << 17U, .r = 8, .p = 4}));
}

TEST_CASE("random bytes fill the whole buffer and never repeat", "[base][crypto]") {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) CHECK(seen.insert(hex(random_key())).second);
  Bytes many(100'000);
  random_bytes(many);
  CHECK_FALSE(is_zero(ByteView(many).last(16)));
  CHECK_NOTHROW(random_bytes({}));
}

TEST_CASE("wipe() overwrites all bytes", "[base][crypto]") {
  Bytes secret{1, 2, 3};
  wipe(secret);
  CHECK(is_zero(secret));
  wipe({});
}

// The profile is a chain like any other. To change it, isr publishes the next head; if another host wins that race, isr
// reads the profile again and repeats the change.
#include "account/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "account/account.h"
#include "base/strict_json.h"
#include "base/text.h"

namespace isr {
namespace {

constexpr std::string_view kFormat = "isr1-profile";
constexpr std::size_t kMaxPayload = 512U << 10U;
constexpr std::size_t kMaxParcels = 4096;
constexpr std::size_t kMaxEpochs = 1000;
constexpr int kMaxRaces = 20;
constexpr std::uint32_t kEpoch = 1;

std::string profile_chain(const Account& account) { return fmt::format("users/{}/profile", account.identity.user); }

bool is_parcel_id(std::string_view id) {
  return id.size() == 32 &&
         std::all_of(id.begin(), id.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

/// CON, nul.txt, com1 …: Windows takes a file of this name for a device, so an export could not have it.
bool is_device_name(std::string_view name) {
  std::string stem(name.substr(0, name.find('.')));
  std::transform(stem.begin(), stem.end(), stem.begin(),
                 [](char c) { return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c); });
  constexpr std::array<std::string_view, 4> kDevices = {"CON", "PRN", "AUX", "NUL"};
  if (std::find(kDevices.begin(), kDevices.end(), stem) != kDevices.end()) return true;
  return stem.size() == 4 && (stem.starts_with("COM") || stem.starts_with("LPT")) && stem[3] >= '0' && stem[3] <= '9';
}

bool is_parcel_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && is_letter_or_digit(name[0]) && name.back() != '.' &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; }) &&
         !is_device_name(name);
}

ParcelEntry parse_parcel(const JsonValue& value) {
  JsonFields fields(value, "profile");
  ParcelEntry parcel;
  parcel.id = fields.text("id", 32);
  if (!is_parcel_id(parcel.id)) fields.fail("id", "is not a parcel id");
  parcel.name = fields.text("name", 64);
  if (!is_parcel_name(parcel.name)) fields.fail("name", "is not a parcel name");
  auto epoch = static_cast<std::uint32_t>(fields.number("first_epoch", 1, 1U << 20U));
  for (const JsonValue& text : fields.array("keys", kMaxEpochs)) {
    auto key = fixed_from_hex<Key>(text.text);
    if (text.kind != JsonValue::Kind::kText || !key) fields.fail("keys", "has a value that is not a key");
    parcel.epoch_keys[epoch++] = SecretKey(std::move(*key));
  }
  if (parcel.epoch_keys.empty()) fields.fail("keys", "is empty");
  fields.expect_end();
  return parcel;
}

Bytes profile_head(const Account& account, const HeadPlace& place, const Profile& profile) {
  Head head;
  head.chain = profile_chain(account);
  head.n = place.n;
  head.prev = place.prev;
  head.skipped = place.skipped;
  head.time = wall_now();
  head.host = account.host.holder.host;
  head.epoch = kEpoch;
  head.sealed = seal_payload(account.identity.profile_key, head.chain, head.n, kEpoch, encode_profile(profile));
  return encode_head(std::move(head), account.identity.signing);
}

Profile open_profile(const Account& account, const Head& head) {
  Bytes payload = open_payload(account.identity.profile_key, head);
  Profile profile = parse_profile(payload);
  wipe(payload);
  return profile;
}

}  // namespace

Bytes encode_profile(const Profile& profile) {
  JsonWriter json;
  json.text("format", kFormat).open_array("parcels");
  for (const ParcelEntry& parcel : profile.parcels) {
    const std::uint32_t first = parcel.epoch_keys.begin()->first;
    if (parcel.epoch() - first + 1 != parcel.epoch_keys.size()) {
      throw Error(ErrorKind::kBug, fmt::format("parcel {}: an epoch is missing", parcel.name));
    }
    json.open_object().text("id", parcel.id).text("name", parcel.name).number("first_epoch", first);
    json.open_array("keys");
    for (const auto& [epoch, key] : parcel.epoch_keys) json.hex("", key.view());
    json.close_array().close_object();
  }
  json.close_array();
  Bytes payload = to_bytes(as_bytes(json.take()));
  if (payload.size() > kMaxPayload || profile.parcels.size() > kMaxParcels) {
    throw Error(ErrorKind::kUsage, "the profile has no room for more parcels");
  }
  return payload;
}

Profile parse_profile(ByteView payload) {
  if (payload.size() > kMaxPayload) throw Error(ErrorKind::kCorrupt, "profile: too large");
  const JsonValue root = parse_strict_json(as_text(payload), "profile");
  JsonFields fields(root, "profile");
  if (fields.text("format", 32) != kFormat) throw Error(ErrorKind::kUnsupported, "profile: an unknown format");
  Profile profile;
  std::set<std::string> ids;
  std::set<std::string> names;
  for (const JsonValue& value : fields.array("parcels", kMaxParcels)) {
    profile.parcels.push_back(parse_parcel(value));
    const ParcelEntry& parcel = profile.parcels.back();
    if (!ids.insert(parcel.id).second) fields.fail("parcels", "has an id twice");
    if (!names.insert(parcel.name).second) fields.fail("parcels", "has a name twice");
  }
  fields.expect_end();
  return profile;
}

Profile read_profile(Account& account) {
  const auto newest = account.newest_head(profile_chain(account));
  if (newest) return open_profile(account, newest->head);
  if (!account.remote.offline()) return {};  // repo init was interrupted before it published the first profile
  throw Error(ErrorKind::kOffline,
              fmt::format("the list of parcels of {0} is not on this host, and {0} cannot be reached",
                          account.remote.entry.name),
              {"run isr ls once without --offline while the repository can be reached"});
}

void change_profile(Account& account, const std::function<void(Profile&)>& change, const std::stop_token& stop) {
  account.remote.online("changing the list of parcels");
  Chain chain = account.chain(profile_chain(account), stop);
  for (int race = 0; race < kMaxRaces; ++race) {
    const auto newest = chain.newest();
    Profile profile = newest ? open_profile(account, newest->head) : Profile{};
    change(profile);
    const HeadPlace place = chain.next(newest);
    if (chain.publish(place.n, profile_head(account, place, profile))) return;
  }
  throw Error(ErrorKind::kTransient, "another host keeps changing the list of parcels", {"run the command again"});
}

ParcelEntry find_parcel(const Profile& profile, const std::string& name) {
  check_parcel_name(name);
  std::vector<std::string> names;
  for (const ParcelEntry& parcel : profile.parcels) {
    if (parcel.name == name) return parcel;
    names.push_back(parcel.name);
  }
  const std::string near = nearest(name, names);
  std::vector<std::string> hints;
  if (!near.empty()) hints.push_back(fmt::format("did you mean \"{}\"?", near));
  hints.emplace_back("isr ls                          lists the parcels");
  throw Error(ErrorKind::kNotFound, fmt::format("there is no parcel \"{}\"", escaped(name)), hints);
}

void check_parcel_name(const std::string& name) {
  if (is_parcel_name(name)) return;
  throw Error(ErrorKind::kUsage, fmt::format("\"{}\" cannot be a parcel's name", escaped(name)),
              {"1 to 64 letters, digits, '.', '_' or '-'; the first a letter or digit, the last not '.';",
               "not the name of a Windows device, such as CON"});
}

}  // namespace isr

// check: checks that everything of these parcels is there and undamaged.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"
#include "transfer/check.h"

namespace isr {
namespace {

using nlohmann::json;

struct CheckCommandOptions {
  std::vector<std::string> names;
  bool deep = false;
  bool newest = false;
};

int run_check(CommandContext& context, const CheckCommandOptions& options) {
  Account account = context.open_account();
  account.remote.online("a check");
  std::vector<ParcelEntry> parcels;
  const Profile profile = read_profile(account);
  for (const std::string& name : options.names) parcels.push_back(find_parcel(profile, name));
  if (options.names.empty()) parcels = profile.parcels;
  CheckOptions how;
  how.deep = options.deep;
  how.newest_only = options.newest;
  json findings = json::array();
  json checked = json::array();
  for (const ParcelEntry& parcel : parcels) {
    Progress progress(context.out, "Checking " + parcel.name);
    const CheckReport report = check_parcel(
        account, parcel, how, context.stop(),
        [&](std::string_view step, std::uint64_t done, std::uint64_t total) { progress.update(step, done, total); });
    progress.clear();
    checked.push_back({{"name", parcel.name},
                       {"versions", report.versions},
                       {"pages", report.pages},
                       {"chunks", report.chunks},
                       {"problems", report.findings.size()}});
    if (!context.out.json()) {
      context.out.line(fmt::format(
          "{}: {} versions, {} pages, {} chunks: {}", parcel.name, report.versions, report.pages, report.chunks,
          report.findings.empty() ? "ok" : fmt::format("{} problems", report.findings.size())));
    }
    for (const CheckFinding& finding : report.findings) {
      findings.push_back({{"parcel", parcel.name}, {"where", finding.where}, {"problem", finding.problem}});
      if (!context.out.json()) context.out.line(fmt::format("  {}: {}", finding.where, finding.problem));
    }
  }
  if (context.out.json()) context.out.document({{"schema", 1}, {"parcels", checked}, {"findings", findings}});
  return findings.empty() ? 0 : to_exit_code(ErrorKind::kCorrupt);
}

}  // namespace

void register_check(App& app) {
  auto check = std::make_shared<CheckCommandOptions>();
  app.command(Group::kAdministration, "check", "is everything there and undamaged?")
      .arguments("NAME", check->names, "parcels; all when none is named")
      .flag("--deep", check->deep, "read, verify and decrypt every object")
      .flag("--newest", check->newest, "the newest version only")
      .example("isr check", "heads, pages and the presence of every chunk")
      .example("isr check work --deep", "every byte of every version of work")
      .exit_codes({0, 10, 13, 14, 15, 130})
      .run([check](CommandContext& context) { return run_check(context, *check); });
}

}  // namespace isr

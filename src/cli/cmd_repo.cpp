// repo: the group of commands about the repositories that this host uses.
#include "cli/app.h"
#include "cli/commands.h"

namespace isr {

void register_repo(App& app) {
  Command& repo = app.command(Group::kAdministration, "repo", "the repositories that this host uses");
  repo.example("isr repo ls", "what is configured").example("isr repo check home", "is it safe to write to?");
  repo.exit_codes({0, 2, 10});
  register_repo_init(repo);
  register_repo_add(repo);
  register_repo_rm(repo);
  register_repo_ls(repo);
  register_repo_info(repo);
  register_repo_check(repo);
}

}  // namespace isr

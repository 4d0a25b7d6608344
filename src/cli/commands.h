#pragma once

namespace isr {

class App;

void register_login(App& app);
void register_logout(App& app);
void register_passwd(App& app);
void register_ls(App& app);
void register_log(App& app);
void register_branch(App& app);
void register_repo(App& app);
void register_lock(App& app);
void register_accept_older(App& app);
void register_serve(App& app);
void register_doctor(App& app);
void register_config(App& app);
void register_version(App& app);
void register_boot(App& app);
void register_run(App& app);
void register_session(App& app);
void register_stat(App& app);
void register_image(App& app);
void register_console(App& app);

}  // namespace isr

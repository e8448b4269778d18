#include "app.h"
int app_check_plugin(app *a, const char *what, int argc, char **argv){(void)what;(void)argc;(void)argv;return app_usage(a,"not in this build");}

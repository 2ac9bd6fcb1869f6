"""Where the record and the mathematics meet: a runner supervises one warm child process that carries jobs out."""

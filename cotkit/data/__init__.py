"Problems, answers, tasks, formats and the records of runs"
